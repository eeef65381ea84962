"""Formats: what an export is on disk. Each declares itself in a file of its own; ``exporters`` writes them."""

from kdbench.formats.base import FORMATS, PRECISIONS, Format, Need, companions, format_of

__all__ = ["FORMATS", "PRECISIONS", "Format", "Need", "companions", "format_of"]
