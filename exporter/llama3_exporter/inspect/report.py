"""The output of `llama3-inspect`: a page of 80 columns, or one JSON object."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from llama3_models.terminal import visible, wrapped
from llama3_models.units import format_bytes

from llama3_exporter.inspect.inspection import Inspection, ModelNumbers, TokenizerFacts, Total, Weight, total, totals

_HEADING_WIDTH = 12
_BAR_WIDTH = 24
_LAYERS_A_LINE = 50
_LONGEST_NAME = 80  # a file's texts may have any length
_LONGEST_ENTRY = 400
_LONGEST_TENSOR = 32  # the widest that the column of names gets; longer names overflow it
_LEVELS = "▁▂▃▄▅▆▇█"
_BAR = "█"


def page(found: Inspection, context: int, *, tensors: bool) -> str:
    """Return the page; `context` is the number of positions in the KV cache, `tensors` lists every weight."""
    sections = [[found.name, *_entries(_about(found.about))]]
    if found.refused is not None:
        sections.append(["Cannot be exported", *wrapped("  ", found.refused)])
    if found.architecture is not None:
        sections.append(["Architecture", *_entries(_architecture(found.architecture))])
    if found.weights:
        sections += [["Weights", *_weights(found)], ["Where the bytes are", *_roles(found.weights)]]
    if any(weight.layer is not None for weight in found.weights):
        sections.append(["Bits per weight by layer", *_layers(found.weights)])
    if found.memory:
        sections.append([f"Memory for {context:,} positions", *_memory(found, context)])
    sections.append(["Tokenizer", *_entries(_tokenizer(found.tokenizer) if found.tokenizer else {"": "none"})])
    if tensors and found.weights:
        sections.append(["Tensors", *_tensors(found.weights)])
    if found.check is not None:
        sections.append(["Check", *wrapped("  ", found.check)])
    if found.warnings:
        sections.append(["Notes", *(line for warning in found.warnings for line in wrapped("  ", warning))])
    return "\n\n".join("\n".join(_printable(line.rstrip()) for line in section) for section in sections)


def as_json(found: Inspection, context: int, *, tensors: bool) -> dict[str, Any]:
    """Return the same as data. Sizes are in bytes; `contrib_` keys describe a GGUF's weights in a contrib graph."""
    data = {
        "path": str(found.path),
        "about": dict(found.about),
        "export": None if found.manifest is None else found.manifest.to_dict(),
        "refused": found.refused,
        "architecture": None if found.architecture is None else asdict(found.architecture),
        "weights": _total(total(found.weights)),
        "forms": [_form(form, own) for form, own in _by_form(found.weights).items()],
        "roles": {role: _total(own) for role, own in totals(found.weights, lambda weight: weight.role).items()},
        "layers": {layer: _total(own) for layer, own in _by_layer(found.weights).items()},
        "context": context,
        "memory": [asdict(memory) | {"total": memory.total(context)} for memory in found.memory],
        "tokenizer": None if found.tokenizer is None else asdict(found.tokenizer),
        "warnings": list(found.warnings),
        "check": found.check,
    }
    if tensors:
        data["tensors"] = [asdict(weight) for weight in found.weights]
    return data


def _by_form(weights: Sequence[Weight]) -> dict[tuple[str, str | None], Total]:
    """Add up each form, largest first. In a contrib graph, vectors and matrices of one GGML type differ."""
    forms = totals(weights, lambda weight: (weight.form, weight.contrib_form))
    return dict(sorted(forms.items(), key=lambda item: -item[1].bytes))


def _by_layer(weights: Sequence[Weight]) -> dict[int, Total]:
    in_layers = sorted((weight for weight in weights if weight.layer is not None), key=lambda weight: weight.layer or 0)
    return {layer: own for layer, own in totals(in_layers, lambda weight: weight.layer).items() if layer is not None}


def _total(own: Total) -> dict[str, Any]:
    data = asdict(own) | {"bits": own.bits, "contrib_bits": own.contrib_bits}
    return {key: value for key, value in data.items() if value is not None}


def _form(form: tuple[str, str | None], own: Total) -> dict[str, Any]:
    names = {"form": form[0]} | ({} if form[1] is None else {"contrib_form": form[1]})
    return names | _total(own)


# Parts of the page


def _about(about: Mapping[str, str]) -> dict[str, str]:
    longest = {"name": _LONGEST_NAME}
    titles = {"made of": "made from"}  # scripts may read the older key from --json
    return {
        titles.get(heading, heading): _cut(text, longest.get(heading, _LONGEST_ENTRY))
        for heading, text in about.items()
    }


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _entries(entries: Mapping[str, str]) -> Iterator[str]:
    for heading, text in entries.items():
        yield from wrapped(f"  {heading:{_HEADING_WIDTH}}", text)


def _architecture(numbers: ModelNumbers) -> dict[str, str]:
    heads = "head" if numbers.num_attention_heads == 1 else "heads"
    tied = "shared with the head" if numbers.tie_word_embeddings else "separate from the head"
    rotation = "" if numbers.rope_theta is None else f", RoPE with base {numbers.rope_theta:,.0f}"
    scaled = "" if numbers.rope_scaling in (None, "none") else f", scaled: {numbers.rope_scaling}"
    return {
        "name": numbers.name,
        "layers": f"{numbers.num_hidden_layers} of {numbers.hidden_size:,} elements, "
        f"MLP of {numbers.intermediate_size:,}",
        "attention": f"{numbers.num_attention_heads} {heads} of {numbers.head_dim} elements, "
        f"{numbers.num_key_value_heads} for keys and values",
        "positions": f"{numbers.max_position_embeddings:,}{rotation}{scaled}",
        "embedding": f"{numbers.vocab_size:,} tokens, {tied}",
    }


def _weights(found: Inspection) -> Iterator[str]:
    whole = total(found.weights)
    in_contrib = "" if whole.contrib_bits is None else f"; {whole.contrib_bits:.2f} in a contrib graph"
    yield (
        f"  {_count(whole.parameters)} in {whole.tensors:,} tensors, {format_bytes(whole.bytes)}, "
        f"{whole.bits:.2f} bits each{in_contrib}"
    )
    yield ""
    forms = _by_form(found.weights)
    width = max(len("form"), *(len(form) for form, _ in forms))
    contrib = "" if whole.contrib_bits is None else "  in a contrib graph"
    yield f"  {'form':{width}} tensors weights     size share  bits{contrib}"
    for (form, contrib_form), own in forms.items():
        line = (
            f"  {form:{width}} {own.tensors:7,} {_count(own.parameters):>7} {format_bytes(own.bytes):>8}"
            f" {own.bytes / max(whole.bytes, 1):>5.1%} {_bits(own)}"
        )
        yield line if contrib_form is None else f"{line}  {own.contrib_bits:5.2f}: {contrib_form}"


def _roles(weights: Sequence[Weight]) -> Iterator[str]:
    whole = max(total(weights).bytes, 1)
    by_role = totals(weights, lambda weight: weight.role)
    largest = max(own.bytes for own in by_role.values())
    for role, own in sorted(by_role.items(), key=lambda item: -item[1].bytes):
        bar = _BAR * round(_BAR_WIDTH * own.bytes / max(largest, 1))
        bits = f"  {_bits(own)} bits" if own.parameters else ""
        size = f"{format_bytes(own.bytes):>9}  {own.bytes / whole:5.1%}"
        yield f"  {role:{_HEADING_WIDTH}}{bar:{_BAR_WIDTH}}  {size}{bits}"


def _layers(weights: Sequence[Weight]) -> Iterator[str]:
    """Yield lines of bars, one per layer, or a single figure if all layers are alike."""
    bits = [round(own.bits, 2) for own in _by_layer(weights).values()]
    low, high = min(bits), max(bits)
    if low == high:
        yield f"  {low:.2f} in " + (f"all {len(bits)} layers" if len(bits) > 1 else "the only layer")
        return
    for start in range(0, len(bits), _LAYERS_A_LINE):
        line = bits[start : start + _LAYERS_A_LINE]
        levels = [_LEVELS[round((value - low) / (high - low) * (len(_LEVELS) - 1))] for value in line]
        yield f"  {f'from layer {start}':{_HEADING_WIDTH + 4}}{''.join(levels)}"
    runs = [(value, len(list(run))) for value, run in groupby(sorted(bits, reverse=True))]
    shown = ", ".join(f"{value:.2f} in {count}" for value, count in runs)
    yield from wrapped("  ", shown if len(runs) <= 6 else f"{low:.2f} to {high:.2f}")


def _memory(found: Inspection, context: int) -> Iterator[str]:
    yield f"  {'ops':{_HEADING_WIDTH}}  weights   KV cache               total"
    for memory in found.memory:
        cache = context * memory.kv_cache_per_position
        yield (
            f"  {memory.ops:{_HEADING_WIDTH}}{format_bytes(memory.weights):>9}  {format_bytes(cache):>9}"
            f" {memory.kv_cache_type}  {format_bytes(memory.total(context)):>10}"
        )


def _tokenizer(facts: TokenizerFacts) -> dict[str, str]:
    cut = "" if facts.pre_tokenizer is None else f", splits text like {facts.pre_tokenizer}"
    cut += "" if facts.normalizer is None else f", after {facts.normalizer}"
    begins = "with no token"
    if facts.bos is not None:
        begins = f"with {_token(facts.bos)}" + ("" if facts.adds_bos else ", not added to prompts")
    template = "none"
    if facts.chat_template is not None:
        tools = ", supports tools" * ("tools" in facts.chat_template)
        template = f"{len(facts.chat_template):,} characters of Jinja{tools}"
    return {
        "kind": f"{facts.kind}{cut}",
        "tokens": f"{facts.tokens:,}, {facts.special:,} of them special",
        "begins": begins,
        "ends": "with " + (", ".join(map(_token, facts.ends)) or "no token"),
        "template": template,
    }


def _token(named: tuple[int, str]) -> str:
    token_id, text = named
    return f"{_cut(text, _LONGEST_NAME)} ({token_id})"


def _tensors(weights: Sequence[Weight]) -> Iterator[str]:
    short = {weight: re.sub(rf"^(blk|layers)\.{weight.layer}\.", "", weight.name) for weight in weights}
    width = min(max(map(len, short.values())), _LONGEST_TENSOR)
    in_order = sorted(weights, key=lambda weight: -1 if weight.layer is None else weight.layer)
    for layer, group in groupby(in_order, lambda weight: weight.layer):
        start = "  "
        if layer is not None:
            yield f"  layer {layer}"
            start = "    "
        for weight in group:
            shape = "x".join(map(str, weight.shape))
            name = f"{start}{short[weight]}"
            yield f"{name:{width + 4}} {format_bytes(weight.bytes):>9} {shape:>11} {weight.form}"


def _bits(own: Total) -> str:
    return f"{own.bits:5.2f}" if own.parameters else f"{'-':>5}"


def _count(number: int) -> str:
    for unit, scale, digits in (("B", 1e9, 2), ("M", 1e6, 1), ("k", 1e3, 1)):
        if number >= scale:
            return f"{number / scale:.{digits}f} {unit}"
    return str(number)


def _printable(line: str) -> str:
    """Return the line in characters that the terminal can show."""
    line = visible(line)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        line = line.replace(_BAR, "#")
        line = line.translate({ord(level): str(number) for number, level in enumerate(_LEVELS)})
    return line
