"""End tokens, and special tokens that their file marks as text, by llama.cpp's rules.

Files often name only one of several end tokens. A Llama 3 instruct model ends its turn with <|eot_id|> and a tool call
with <|eom_id|>, and eos_token_id names only one of them. Some converters also mark special tokens as text. So llama.cpp
looks at the texts of tokens (`llama_vocab::impl::load`), and so does this module.
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

# The texts of a role count only if the metadata names no token for it. The last two roles mark where the next file of a
# repository begins. For a code model that is the end of the current file.
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
"""Roles in the metadata whose tokens end generation."""

ROLES: Final = (*END_ROLES, "fim_pre", "fim_suf", "fim_mid")
"""All roles that this module looks at."""

_ALL_TEXTS: Final = _ENDS.union(*_BY_ROLE.values())

# If a reply has several parts, <|end|> ends only one part, and the reply continues.
_PARTS: Final = (
    {"<|return|>", "<|call|>"},
    {"<|return|>", "<|calls|>"},
    {"<|flush|>", "<|call|>"},
    {"<|flush|>", "<|calls|>"},
)

# If a vocabulary has one of these, </s> is text.
_OTHER_ENDS: Final = frozenset({"<|tool_response>", "<|plamo:eos|>"})


class SpecialTokens(NamedTuple):
    """Ids of tokens.

    Attributes:
        ends: Tokens that end generation.
        control: Special tokens.
        found: Tokens recognized in any text: the <|end|> of a part of a reply.
        text: Tokens that look special but are text.
    """

    ends: frozenset[int]
    control: frozenset[int]
    found: frozenset[int]
    text: frozenset[int]


def special_tokens(tokens: Iterable[tuple[int, str]], named: Mapping[str, int]) -> SpecialTokens:
    """Find special tokens by their text and by the ids in the metadata.

    Args:
        tokens: Ids and texts of the tokens that may be special.
        named: The ids that the metadata names, by role (one of `ROLES`).
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
