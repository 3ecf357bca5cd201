"""Limits: what may still be used, decided before a call, and what went beyond, found out after it."""
