"""Text from a stream of tokens: only whole characters, and no part of a stop string.

A token may end inside a character, and a stop string may begin in one token and end in another. Bytes and text that
could become part of either are held back until a later token decides.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """A decoder of a stream of tokens' bytes.

    The stop string that is complete first ends the stream; if several end at the same character, the longest counts.
    The borders between tokens make no difference. Bytes that are not UTF-8 become U+FFFD.

    Attributes:
        matched: The stop string that ended the stream, after which no text follows; None until then.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Start an empty stream; the texts in `stop`, each at least one character long, end it."""
        self.matched: str | None = None
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # the end of the text that may be the beginning of a stop string

    def push(self, token: bytes) -> str:
        """Add the bytes of the next token, if any, and return the text that is now certain."""
        return self._release(self._decoder.decode(token))

    def finish(self) -> str:
        """End the stream and return the text that was still held back."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _release(self, text: str) -> str:
        if self.matched is not None:
            return ""
        text = self._held + text
        matches = [(start + len(stop), start, stop) for stop in self._stop if (start := text.find(stop)) >= 0]
        if matches:
            _, start, self.matched = min(matches)
            self._held = ""
            return text[:start]
        certain = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[certain:]
        return text[:certain]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
