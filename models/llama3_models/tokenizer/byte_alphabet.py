"""How tokenizers like GPT-2's spell bytes as text.

A byte-level vocabulary keeps its tokens as strings, one character per byte. Printable Latin-1 bytes stand for
themselves; the other 68 (white space, control characters) become U+0100 and up. So no token of such a vocabulary
contains white space, and a space can separate the two halves of a merge.
"""

from typing import Final

_PRINTABLE: Final = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_MOVED: Final = sorted(set(range(256)) - set(_PRINTABLE))

CHARACTER_OF_BYTE: Final[dict[int, str]] = {
    **{byte: chr(byte) for byte in _PRINTABLE},
    **{byte: chr(0x100 + index) for index, byte in enumerate(_MOVED)},
}
BYTE_OF_CHARACTER: Final[dict[str, int]] = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def spell_bytes(data: bytes) -> str:
    """Return the token text that stands for `data`."""
    return "".join([CHARACTER_OF_BYTE[byte] for byte in data])


def read_bytes(token: str) -> bytes:
    """Return the bytes that `token` stands for, or its UTF-8 if it is not spelled in the alphabet."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return token.encode()
