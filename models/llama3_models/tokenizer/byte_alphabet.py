"""How GPT-2's family of tokenizers spells bytes as text.

A byte-level vocabulary keeps its tokens as strings, one character for each byte: printable Latin-1 bytes stand for
themselves, the 68 others (white space, controls) are moved to U+0100 and up. So no token of such a vocabulary holds
white space, and a space can separate the two halves of a merge.
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
    """The token text that stands for `data`."""
    return "".join([CHARACTER_OF_BYTE[byte] for byte in data])


def read_bytes(token: str) -> bytes:
    """The bytes that `token` stands for; a token that is not spelled in the alphabet gives its UTF-8."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return token.encode()
