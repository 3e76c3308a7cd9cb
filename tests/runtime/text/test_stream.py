"""The text stream returns the same text as decoding all tokens at once, in whole characters."""

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama3_runtime.text.stream import TextStream


def stream(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """Stream pieces of bytes as if each were a token."""
    texts = TextStream(stop)
    found = []
    for piece in pieces:
        found.append(texts.push(piece))
        if texts.matched is not None:
            return found, True
    return [*found, texts.finish()], texts.matched is not None


def whole(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Apply the definition: the stop string that ends first, and the longest of those that end there."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


cuts = st.lists(st.integers(0, 1000), max_size=12)
letters = st.text(alphabet="ab\u00e9\U0001f600", max_size=30)
stops = st.lists(st.text(alphabet="ab\u00e9\U0001f600", min_size=1, max_size=5), max_size=3).map(tuple)


@given(letters, cuts, stops)
@example("abab", [1, 2, 3], ("abc", "bab"))
@settings(deadline=None, max_examples=500)
def test_equals_the_whole_text_however_it_is_cut(text, cuts, stop):
    """Neither characters nor stop strings depend on where tokens begin and end."""
    out, stopped = stream(cut(text.encode(), cuts), stop)
    assert ("".join(out), stopped) == whole(text, stop)


@given(st.binary(max_size=30), cuts)
@settings(deadline=None, max_examples=300)
def test_any_bytes_decode_as_the_whole_does(data, cuts):
    """Bytes that are not UTF-8 become the same replacement characters as in the whole string."""
    out, _ = stream(cut(data, cuts))
    assert "".join(out) == data.decode("utf-8", errors="replace")


def test_a_character_comes_once_it_is_whole():
    assert stream([b"\xf0", b"\x9f\x98", b"\x80", b"x"]) == (["", "", "\U0001f600", "x", ""], False)


def test_an_unfinished_character_is_shown_at_the_end():
    assert stream([b"a\xf0\x9f"]) == (["a", "\ufffd"], False)


def test_only_what_may_begin_a_stop_string_is_held_back():
    """Everything before it is returned at once; the rest follows when it can no longer be a stop string."""
    assert stream([b"Hello Us", b"e", b"d ca", b"r"], ("User:",)) == (["Hello ", "", "Used ca", "r", ""], False)


def test_a_stop_string_across_tokens_is_not_printed():
    assert stream([b"Hi\nUs", b"er", b": x", b"more"], ("User:",)) == (["Hi\n", "", ""], True)


def test_a_held_beginning_is_printed_at_the_end():
    assert stream([b"Hi Us"], ("User:",)) == (["Hi ", "Us"], False)


def test_the_first_complete_stop_string_wins():
    assert stream([b"xabcd"], ("abcd", "bc")) == (["xa"], True)
    assert stream([b"xabc"], ("c", "abc")) == (["x"], True)


def test_special_tokens_are_no_text():
    assert stream([b"a", b"", b"b"]) == (["a", "", "b", ""], False)


def test_what_was_held_back_is_there_for_whoever_breaks_off():
    """After Ctrl-C, the first half of a stop string turns out to be ordinary text."""
    texts = TextStream(("User:",))
    assert texts.push(b"Hi Us") == "Hi "
    assert texts.finish() == "Us"
