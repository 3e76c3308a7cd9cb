"""A check that reads an export's tokenizer back as llama3-run does, and compares it with the GGUF's.

The runtime's log messages are suppressed: llama3-export and llama3-inspect report on the vocabulary themselves, and the
texts do not come from the user.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.comparison import differences
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.vocabulary import FOUND_BY_TEXT, ByteLevelBPE, Vocabulary

_TEXTS: Final = (
    "I believe",
    "The quick brown fox jumps over the lazy dogs that were there.",
    "The rain in Spain, and 12345 more things; don't YOU'LL we've",
    " leading, trailing   and    runs of spaces \n\n\t\t\r\n\n  ",
    "\x00\x01\x07\x1b[0m\x7f\x85\xa0\ufeff",
    "naïve Ångström e\u0301 ﬁ Ǆ Straße İstanbul",
    "Привет мир, Ελληνικά, עברית, العربية, हिन्दी",
    "日本語のテキスト、中文，한국어 ภาษาไทย",
    "👍🏽 👨‍👩‍👧 ∑∫≠ \U00010348\U0001f9ff",
    "<|begin_of_text|><|eot_id|></s><s>[INST]<|im_end|><unk> <0x0A>",
    "def f(x):\n    return x**2  # ok\n",
)


def why_unusable(vocabulary: Vocabulary) -> str | None:
    """Return why llama3-run cannot use a tokenizer, or None if it can."""
    from llama3_runtime.text.tokenizer import Tokenizer  # importing the exporter must not load the runtime

    try:
        Tokenizer(vocabulary, quiet=True).encode(_TEXTS[0])
    except Llama3Error as error:
        return cannot_use(vocabulary.source, error)
    return None


def cannot_use(source: Path, error: Llama3Error) -> str:
    """Return the warning for a tokenizer that llama3-run refuses, without the path that begins the error."""
    reason = str(error).removeprefix(f"{source}: ")
    if "--tokenizer-path" in reason:
        return f"llama3-run cannot use its tokenizer: {reason}"
    return f"llama3-run cannot use its tokenizer and needs --tokenizer-path ({reason})"


def check_tokenizer(folder: Path, vocabulary: Vocabulary) -> tuple[str | None, str | None]:
    """Read the tokenizer of an export back.

    Texts are compared only if the two vocabularies differ; otherwise the ids of all texts are the same.

    Args:
        folder: The export.
        vocabulary: The GGUF's vocabulary.

    Returns:
        Why llama3-run cannot use the tokenizer, and how it differs from the GGUF's; each None if all is well.
    """
    try:
        found = read_vocabulary(folder)
    except Llama3Error as error:
        return f"llama3-run cannot use this export's tokenizer and needs --tokenizer-path ({error})", None
    different = list(differences(vocabulary, found))
    problem = why_unusable(found)
    if not different:
        return problem, _not_for_other_programs(vocabulary)
    warning = f"tokenizer.json cannot express everything in the GGUF; it differs in {', '.join(different)}"
    if problem is None and why_unusable(vocabulary) is None:
        text = _first_text_with_other_ids(vocabulary, found)
        if text is not None:
            warning += f"; the ids of {text[:40]!r} differ"
    return problem, warning


def _not_for_other_programs(vocabulary: Vocabulary) -> str | None:
    """Return a warning if Hugging Face's library refuses what llama3-run and llama.cpp accept, or None."""
    if isinstance(vocabulary.model, ByteLevelBPE):
        tokens = vocabulary.ids
        for merge in vocabulary.model.merges or ():
            stranger = next((half for half in merge.split(" ", 1) if half not in tokens), None)
            if stranger is not None:
                return (
                    f"its merge {merge!r:.80} contains {stranger!r:.40}, which is not a token; Hugging Face's "
                    "tokenizers and programs that use them refuse this tokenizer.json, but llama3-run reads it"
                )
    return None


def _first_text_with_other_ids(ours: Vocabulary, theirs: Vocabulary) -> str | None:
    from llama3_runtime.text.tokenizer import Tokenizer

    first, second = (Tokenizer(vocabulary, quiet=True) for vocabulary in (ours, theirs))
    # Only these recognized tokens can matter, and there may be a million others.
    changed = {*ours.surroundings, *theirs.surroundings}
    for type_ in FOUND_BY_TEXT:
        changed.update(token for token, _ in ours.ids_by_text(type_).items() ^ theirs.ids_by_text(type_).items())
    for text in (*_TEXTS, *sorted(changed)):
        for special in (False, True):
            if first.encode(text, special=special) != second.encode(text, special=special):
                return text
    return None
