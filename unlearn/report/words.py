"""How numbers are written."""

from __future__ import annotations


def percent(value: float | None) -> str:
    """A share as a percentage, for sentences."""
    return "an unknown share" if value is None else f"{100 * value:.1f} %"


def per_cent(value: float | None) -> str:
    """A share as a percentage, for tables; a dash for what is not known."""
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A number for tables; a dash for what is not known.

    Example:
        >>> number(0.95638), number(1234.5), number(0.00002), number(None)
        ('0.956', '1,234', '2.0e-05', '–')
    """
    if value is None:
        return "–"
    size = abs(value)
    if 0 < size < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:,.0f}"
