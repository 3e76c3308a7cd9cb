"""Sizes as people read them."""


def format_bytes(size: float) -> str:
    """A size in kB, MB or GB, decimal, with three digits or so."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}" if unit == "GB" else f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
