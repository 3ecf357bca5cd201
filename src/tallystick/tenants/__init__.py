"""Tenants: the customer organisations of the operator."""
