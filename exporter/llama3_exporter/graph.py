"""The graph around the model: inputs, outputs and padding, as every ONNX Runtime app knows them.

`input_ids`, `attention_mask` and `past_key_values.*` go in, `logits` and `present.*` come out; the names are those of
Optimum and onnxruntime-genai. Hosts pad on either side of a prompt (genai right, transformers left) while the
attention op wants the real tokens first, so every row of the chunk is turned until its padding is last.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from llama3_models.exports import Logits
from llama3_models.hyperparameters import Hyperparameters
from onnxscript import GraphBuilder, OpBuilder

from llama3_exporter.llama import Backend, Chunk, LayerCache, Llama, Select

OPSET = 23  # the first with RMSNormalization
IR_VERSION = 11

_END = int(np.iinfo(np.int64).max)


class _Turned(NamedTuple):
    """Where the tokens of the chunk are, once each row is turned by `lead`."""

    positions: ir.Value  # int64 [seq]: 0 .. seq - 1
    length: ir.Value  # int64 [1]: seq
    lead: ir.Value  # int64 [batch, 1]: padding before the first real token
    real: ir.Value  # int64 [batch, 1]: real tokens in the chunk


def build_graph(config: Hyperparameters, backend: Backend, logits: Logits) -> ir.Model:
    """Declare the whole graph. Weights are external tensors that the backend has placed; none is read here.

    Args:
        config: The model's numbers.
        backend: Makes the modules that hold weights.
        logits: Which positions get logits.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, "com.microsoft": 1, **backend.domains}, name="llama")
    builder = GraphBuilder(graph)
    op = builder.op
    int64 = ir.DataType.INT64
    input_ids = builder.input("input_ids", int64, ["batch_size", "sequence_length"])
    attention_mask = builder.input("attention_mask", int64, ["batch_size", "total_sequence_length"])
    caches = [
        LayerCache(
            *(_cache_value(f"past_key_values.{i}.{part}", config, backend.kv_type, "past") for part in ("key", "value"))
        )
        for i in range(config.num_layers)
    ]
    graph.inputs.extend(value for cache in caches for value in cache)

    chunk, turned = _turn(op, input_ids, attention_mask)
    num_kept: int | str
    if logits == "last":
        select, num_kept = _select_last(op, turned, None), 1
    elif logits == "selected":
        one = ir.tensor(np.array([1], dtype=np.int64), name="logits_to_keep")
        select = _select_last(op, turned, builder.input("logits_to_keep", const_value=one))
        num_kept = "logits_to_keep"
    else:
        select, num_kept = _turn_back(op, turned), "sequence_length"

    scores, presents = Llama(config, backend)(op, chunk, caches, select)

    scores.type, scores.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch_size", num_kept, config.vocab_size])
    builder.add_output(scores, "logits")
    for i, present in enumerate(presents):
        for part, value in present._asdict().items():
            declared = _cache_value(f"present.{i}.{part}", config, backend.kv_type, "total")
            value.type, value.shape = declared.type, declared.shape
            builder.add_output(value, declared.name)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="llama3-onnx")


def _cache_value(name: str, config: Hyperparameters, dtype: ir.DataType, span: str) -> ir.Value:
    shape: list[int | str | None] = [
        "batch_size",
        config.num_key_value_heads,
        f"{span}_sequence_length",
        config.head_dim,
    ]
    return ir.val(name, dtype, shape)


def _turn(op: OpBuilder, input_ids: ir.Value, attention_mask: ir.Value) -> tuple[Chunk, _Turned]:
    """Turn each row of the chunk until its first real token comes first."""
    length = op.Shape(input_ids, start=1, end=2)  # [1]
    positions = op.Range(0, op.Squeeze(length), 1)  # [seq]
    mask = op.Slice(attention_mask, op.Neg(length), [_END], [1])  # [batch, seq]: the chunk's part of the mask
    lead = op.ArgMax(mask, axis=1, keepdims=1)
    real = op.ReduceSum(mask, [1], keepdims=1)
    ids = op.GatherElements(input_ids, op.Mod(op.Add(positions, lead), length), axis=1)
    real_tokens = op.ReduceSum(attention_mask, [1], keepdims=0)  # [batch]
    seqlens_k = op.Cast(op.Sub(real_tokens, 1), to=ir.DataType.INT32)
    total_length = op.Cast(op.Squeeze(op.Shape(attention_mask, start=1, end=2)), to=ir.DataType.INT32)
    return Chunk(ids, seqlens_k, total_length), _Turned(positions, length, lead, real)


def _select_last(op: OpBuilder, turned: _Turned, num_kept: ir.Value | None) -> Select:
    """The rows of the last real tokens: one, or `num_kept` [1] of them."""
    if num_kept is None:
        rows = op.Sub(turned.real, 1)  # [batch, 1]
    else:
        rows = op.Add(op.Range(0, op.Squeeze(num_kept), 1), op.Sub(turned.real, num_kept))  # [batch, kept]
    return _gather(op.Unsqueeze(rows, [2]))


def _turn_back(op: OpBuilder, turned: _Turned) -> Select:
    """All rows, where the host had put them."""
    rows = op.Mod(op.Add(op.Sub(turned.positions, turned.lead), turned.length), turned.length)  # [batch, seq]
    return _gather(op.Unsqueeze(rows, [2]))


def _gather(rows: ir.Value) -> Select:
    def select(op: OpBuilder, x: ir.Value) -> ir.Value:
        kept = op.GatherND(x, rows, batch_dims=1)
        kept.type = x.type
        return kept

    return select
