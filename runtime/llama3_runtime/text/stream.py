"""Token ids to text as they come: whole characters only, and no part of a stop string.

A token may end inside a character, and a stop string may begin in one token and end in another. What could still
become part of either is held back until the next token decides it.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence


class TextStream:
    """Decodes a stream of tokens.

    The stop string that is complete first ends the stream, the longest of those that end at the same character;
    where tokens begin and end makes no difference. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        """Starts an empty stream.

        Args:
            token_bytes: Gives the bytes of a token; none for one that is no text.
            stop: Texts that end the stream, each at least one character long.
        """
        self.stopped = False  # whether a stop string was found: nothing more will come
        self._token_bytes = token_bytes
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # the end of the text that may be the beginning of a stop string

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Takes tokens as they come, up to a stop string.

        Yields:
            The text that is certain after each token, perhaps none, and then what was held back.
        """
        for token in tokens:
            yield self._release(self._decoder.decode(self._token_bytes(token)))
            if self.stopped:
                return
        yield self.finish()

    def finish(self) -> str:
        """Ends the stream and returns the text that was still held back."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        matches = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if matches:
            _, start = min(matches)
            self.stopped, self._held = True, ""
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
