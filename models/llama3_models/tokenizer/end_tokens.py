"""Which tokens end generation, and which are special though their file calls them text, by llama.cpp's rules.

Files often name only one of several ends: an instruct model of Llama 3 ends its turn with <|eot_id|>, a tool call with
<|eom_id|>, and either may be what eos_token_id leaves out. Some converters also write special tokens down as text. So
llama.cpp goes by the texts of tokens (`llama_vocab::impl::load`), and so does this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

# fmt: off
_ENDS: Final = frozenset({
    "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>",
    "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<turn|>", "<|tool_response>", "[e~[",
    "<end_of_turn>", "<end_of_utterance>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<eos>", "</s>",
    "<｜end▁of▁sentence｜>",
})

# The texts of a role count only where the metadata names no token for it. The last three mark where the next file of a
# repository begins, which for a model of code is the end of this one.
_BY_ROLE: Final[Mapping[str, frozenset[str]]] = {
    "fim_pre": frozenset({
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>",
    }),
    "fim_suf": frozenset({
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|suffix|>",
    }),
    "fim_mid": frozenset({
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
        "<|middle|>",
    }),
    "fim_pad": frozenset({"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}),
    "fim_rep": frozenset({"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}),
    "fim_sep": frozenset({"<|file_sep|>"}),
}
# fmt: on

END_ROLES: Final = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
"""Roles of the metadata whose tokens end generation."""

ROLES: Final = (*END_ROLES, "fim_pre", "fim_suf", "fim_mid")
"""All roles that are looked at here."""

_ALL_TEXTS: Final = _ENDS.union(*_BY_ROLE.values())

# Where a reply has several parts, <|end|> is the end of one of them, and the reply goes on.
_PARTS: Final = (
    {"<|return|>", "<|call|>"},
    {"<|return|>", "<|calls|>"},
    {"<|flush|>", "<|call|>"},
    {"<|flush|>", "<|calls|>"},
)

# With these, </s> is text.
_OTHER_ENDS: Final = frozenset({"<|tool_response>", "<|plamo:eos|>"})


class SpecialTokens(NamedTuple):
    """Ids of tokens.

    Attributes:
        ends: Generation ends at these.
        control: These are special tokens.
        found: These are found in any text: the <|end|> of a part of a reply.
        text: These are text, although they look special.
    """

    ends: frozenset[int]
    control: frozenset[int]
    found: frozenset[int]
    text: frozenset[int]


def special_tokens(tokens: Iterable[tuple[int, str]], named: Mapping[str, int]) -> SpecialTokens:
    """Find special tokens by their text and by what the metadata names.

    Args:
        tokens: Ids and texts of the tokens that may be special.
        named: The ids that the metadata names, by those of `ROLES` for which it names one.
    """
    named_ends = {named[role] for role in END_ROLES if role in named}
    end_texts = set[str]()
    ids: dict[str, set[int]] = {}
    for token_id, text in tokens:
        if text in _ALL_TEXTS:
            ids.setdefault(text, set()).add(token_id)
        if token_id in named_ends:
            end_texts.add(text)
    control, ends = set[int](), named_ends
    for text, those in ids.items():
        role = next((role for role, texts in _BY_ROLE.items() if text in texts), None)
        if role is None or role not in named:
            control |= those
            if role is None or role in END_ROLES:
                ends |= those
                end_texts.add(text)
    of_parts = ids.get("<|end|>", set()) if any(parts <= end_texts for parts in _PARTS) else set()
    of_text = ids.get("</s>", set()) if _OTHER_ENDS & end_texts else set()
    rest = of_parts | of_text
    return SpecialTokens(frozenset(ends - rest), frozenset(control - rest), frozenset(of_parts), frozenset(of_text))
