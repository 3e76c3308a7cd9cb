"""Token ids to text as they come: whole characters only, and no part of a stop string.

A token may end inside a character, and a stop string may begin in one token and end in another. What could still
become part of either is held back until the next token decides it.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """Decodes a stream of tokens' bytes.

    The stop string that is complete first ends the stream, the longest of those that end at the same character;
    where tokens begin and end makes no difference. Bytes that are no UTF-8 become U+FFFD.

    Attributes:
        matched: The stop string that ended the stream: nothing more will come. None before.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Starts an empty stream; `stop` are the texts that end it, each at least one character long."""
        self.matched: str | None = None
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # the end of the text that may be the beginning of a stop string

    def push(self, token: bytes) -> str:
        """Takes the bytes of the next token, perhaps none, and returns the text that is certain by now."""
        return self._release(self._decoder.decode(token))

    def finish(self) -> str:
        """Ends the stream and returns the text that was still held back."""
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
    """The length of the longest end of the text that begins the stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
