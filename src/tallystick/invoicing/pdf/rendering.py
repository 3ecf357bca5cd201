"""The typesetting: the blocks of a document, the template and its fonts become the bytes of a PDF.

What is written on a document reaches the template as data, never as markup: no text can run there. Nothing of the
machine takes part, neither its fonts nor its clock: with one version of typst, the same invoice gives the same bytes.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tallystick.errors import ConfigurationError, InvalidInput
from tallystick.invoicing.pdf.document import credit_note_document, invoice_document
from tallystick.invoicing.pdf.wording import wording_of
from tallystick.invoicing.values import CreditNote, Invoice, Payment

if TYPE_CHECKING:
    import typst

__all__ = ["render_credit_note", "render_invoice"]

logger = logging.getLogger("tallystick.invoicing")

_LOGO_BYTES_MAX = 1_000_000
_LOGO_FORMATS = {"gif": "gif", "jpeg": "jpg", "jpg": "jpg", "png": "png", "svg": "svg", "webp": "webp"}

# For archives (PDF/A) and for readers that cannot see (PDF/UA).
_STANDARDS: list[typst.PDFStandard] = ["a-2a", "ua-1"]

# Marks that turn the direction of what follows: an amount could be made to read otherwise than it is.
_DIRECTION_MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def render_invoice(
    invoice: Invoice,
    *,
    payments: Sequence[Payment] = (),
    credit_notes: Sequence[CreditNote] = (),
    logo: bytes | None = None,
    logo_format: str | None = None,
    locale: str | None = None,
    font_folder: Path | None = None,
) -> bytes:
    """Return an invoice as PDF, in the language of `locale`, else of the invoice.

    The same values give the same bytes at any time, with one version of typst; an overdue invoice is the pending one.
    Payments and credit notes are listed with it. `logo` is an SVG, PNG, JPEG, GIF or WebP, as its bytes show or
    `logo_format` says. The built-in font writes Latin, Greek and Cyrillic; `font_folder` adds others.

    Raises:
        ConfigurationError: typst, the extra "pdf", is not installed.
        InvalidInput: the logo is larger than 1 MB or is no image, or there is no such folder.
    """
    words = wording_of(locale or invoice.locale, invoice.zone)
    document = invoice_document(invoice, payments, credit_notes, words)
    dated = invoice.issued_at or invoice.created_at
    return _typeset(document, dated=dated, logo=_Logo.of(logo, logo_format), font_folder=font_folder)


def render_credit_note(
    note: CreditNote,
    invoice: Invoice,
    *,
    logo: bytes | None = None,
    logo_format: str | None = None,
    locale: str | None = None,
    font_folder: Path | None = None,
) -> bytes:
    """Return a credit note as PDF, with the invoice that it corrects; otherwise as `render_invoice`.

    Raises:
        ConfigurationError: typst, the extra "pdf", is not installed.
        InvalidInput: the logo is larger than 1 MB or is no image, or there is no such folder.
    """
    words = wording_of(locale or invoice.locale, invoice.zone)
    document = credit_note_document(note, invoice, words)
    return _typeset(document, dated=note.issued_at, logo=_Logo.of(logo, logo_format), font_folder=font_folder)


def _typeset(document: dict[str, Any], *, dated: datetime, logo: _Logo | None, font_folder: Path | None) -> bytes:
    blocks = document | {"logo": None if logo is None else logo.as_block()}
    data = json.dumps(_printable(blocks), ensure_ascii=False)
    try:
        return _compile(data, dated, font_folder, _STANDARDS)
    except _typst().TypstError as error:
        # A character that no font has, or a logo that archives do not allow. An invoice is made all the same, and looks
        # the same; it only does not claim the standards.
        logger.warning("%s keeps no PDF standard: %s", document["document_title"], error.message)
        return _compile(data, dated, font_folder, [])


def _compile(data: str, dated: datetime, font_folder: Path | None, standards: list[typst.PDFStandard]) -> bytes:
    pdf: bytes = _typst().compile(
        _template(),
        font_paths=_fonts(font_folder),
        sys_inputs={"document": data},
        pdf_standards=standards,
        timestamp=dated.astimezone(UTC).replace(microsecond=0),
    )
    return pdf


# -- what goes in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Logo:
    """An image that can be typeset."""

    content: bytes
    format: str | None

    @classmethod
    def of(cls, content: bytes | None, format_name: str | None) -> _Logo | None:
        if not content:
            return None
        if len(content) > _LOGO_BYTES_MAX:
            raise InvalidInput("logo", f"{len(content)} bytes", f"Give an image of at most {_LOGO_BYTES_MAX} bytes.")
        name = None if format_name is None else format_name.lower().lstrip(".").partition("+")[0].rpartition("/")[2]
        if name is not None and name not in _LOGO_FORMATS:
            raise InvalidInput("logo_format", format_name, f"Use one of {', '.join(sorted(_LOGO_FORMATS))}.")
        logo = cls(content, None if name is None else _LOGO_FORMATS[name])
        _require_readable(logo)
        return logo

    def as_block(self) -> dict[str, Any]:
        return {"content": list(self.content), "format": self.format}


@lru_cache(maxsize=8)
def _require_readable(logo: _Logo) -> None:
    source = b"#let logo = json(bytes(sys.inputs.logo))\n#image(bytes(logo.content), format: %s)"
    format_name = b"auto" if logo.format is None else f'"{logo.format}"'.encode()
    try:
        _typst().compile(
            source % format_name, font_paths=_fonts(None), sys_inputs={"logo": json.dumps(logo.as_block())}
        )
    except _typst().TypstError as error:
        raise InvalidInput("logo", error.message, "Give an image as SVG, PNG, JPEG, GIF or WebP.") from None


def _printable(value: Any) -> Any:
    """Return the blocks with every text as a page can show it: no control characters, composed accents."""
    if isinstance(value, str):
        return _printable_text(value)
    if isinstance(value, dict):
        return {key: _printable(part) for key, part in value.items()}
    if isinstance(value, list | tuple) and not (value and isinstance(value[0], int)):
        return [_printable(part) for part in value]
    return value


def _printable_text(text: str) -> str:
    lines = _DIRECTION_MARKS.sub("", text).replace("\t", " ").splitlines()
    return "\n".join(unicodedata.normalize("NFC", "".join(map(_shown, line))) for line in lines)


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    # A lone surrogate is no character at all; it is shown as what it is, unknown.
    return "\ufffd" if category == "Cs" else "" if category == "Cc" else character


# -- what is there once -----------------------------------------------------------------------------------------------


@lru_cache
def _template() -> bytes:
    return files("tallystick.invoicing.pdf").joinpath("document.typ").read_bytes()


@lru_cache(maxsize=8)
def _fonts(folder: Path | None) -> typst.Fonts:
    """Return the built-in font, and those of a folder. No font of the machine: it would look otherwise elsewhere."""
    if folder is not None and not folder.is_dir():
        raise InvalidInput("font_folder", str(folder), "Name a folder with fonts in it.")
    folders = [Path(__file__).parent / "fonts", *([] if folder is None else [folder])]
    fonts: typst.Fonts = _typst().Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=folders)
    return fonts


def _typst() -> ModuleType:
    try:
        import typst
    except ImportError:
        raise ConfigurationError("typst", None, 'PDFs need typst: pip install "tallystick[pdf]".') from None
    return typst
