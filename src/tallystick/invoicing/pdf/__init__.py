"""Invoices and credit notes as PDF, by typst (the extra "pdf"): the same bytes whenever they are made.

`document.py` decides what stands there, `wording.py` how a language says it, `document.typ` how it looks.
"""

from tallystick.invoicing.pdf.rendering import render_credit_note, render_invoice

__all__ = ["render_credit_note", "render_invoice"]
