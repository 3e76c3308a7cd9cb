"""Readable sizes."""


def format_bytes(size: float) -> str:
    """Return a size in decimal kB, MB or GB, with about three digits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}" if unit == "GB" else f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
