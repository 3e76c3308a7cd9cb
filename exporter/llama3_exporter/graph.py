"""The graph around the model: inputs, outputs and padding, in the form that every ONNX Runtime app knows.

`input_ids`, `attention_mask` and `past_key_values.*` go in, `logits` and `present.*` come out, named as in Optimum and
onnxruntime-genai. Hosts pad on either side of a prompt (genai right, transformers left), or pause a row of a batch. The
attention op needs each row's real tokens first, so the graph moves them there.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from llama3_models.config import Hyperparameters
from llama3_models.exports import Logits
from onnxscript import GraphBuilder, OpBuilder

from llama3_exporter.decoders import DECODERS
from llama3_exporter.decoders.backend import Backend, Chunk, LayerCache
from llama3_exporter.decoders.decoder import Select
from llama3_exporter.modules import checked

OPSET = 23  # the first with RMSNormalization
IR_VERSION = 11

_END = int(np.iinfo(np.int64).max)


def build_graph(config: Hyperparameters, backend: Backend, logits: Logits) -> ir.Model:
    """Declare the whole graph. Weights are external tensors that the backend has placed, and are not read here.

    Args:
        config: The model's hyperparameters.
        backend: Creates the modules that have weights.
        logits: Positions that get logits.
    """
    graph = ir.Graph(
        [],
        [],
        nodes=[],
        opset_imports={"": OPSET, "com.microsoft": 1, **backend.domains},
        name=config.architecture.name,
    )
    builder = GraphBuilder(graph)
    op = builder.op
    int64 = ir.DataType.INT64
    input_ids = builder.input("input_ids", int64, ["batch_size", "sequence_length"])
    attention_mask = builder.input("attention_mask", int64, ["batch_size", "total_sequence_length"])
    caches = [
        LayerCache(
            *(_cache_value(f"past_key_values.{i}.{part}", config, backend.kv_type, "past") for part in ("key", "value"))
        )
        for i in range(config.num_hidden_layers)
    ]
    graph.inputs.extend(value for cache in caches for value in cache)

    chunk, chunk_mask = _real_tokens_first(op, input_ids, attention_mask, caches[0].key)
    num_kept: int | str
    if logits == "last":
        select, num_kept = _select_last(op, chunk, None), 1
    elif logits == "selected":
        one = ir.tensor(np.array([1], dtype=np.int64), name="logits_to_keep")
        select = _select_last(op, chunk, builder.input("logits_to_keep", const_value=one))
        num_kept = "logits_to_keep"
    else:
        select, num_kept = _as_given(op, chunk_mask), "sequence_length"

    scores, presents = DECODERS[config.architecture.name](config, backend)(op, chunk, caches, select)

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


def _real_tokens_first(
    op: OpBuilder, input_ids: ir.Value, attention_mask: ir.Value, past_key: ir.Value
) -> tuple[Chunk, ir.Value]:
    """Return the chunk, each row's real tokens in order and then its padding, and its mask [batch, seq]."""
    length = op.Shape(input_ids, start=1, end=2)  # [1]
    mask_less_1 = op.Sub(attention_mask, 1)
    ones = checked(op, [1], mask_less_1, "attention_mask_must_be_0_or_1")
    mask = op.Add(mask_less_1, ones)  # [batch, total]
    chunk_mask = op.Reshape(op.Slice(mask, op.Neg(length), [_END], [1]), op.Shape(input_ids))  # [batch, seq]
    chunk_mask.producer().name = "attention_mask_must_cover_input_ids"
    # Earlier real tokens have larger ranks. Padding has 0, in any order.
    ranks = op.Mul(chunk_mask, op.Range(op.Squeeze(length), 0, -1))
    _, places = op.TopK(ranks, length, axis=1, _outputs=["ranks_in_order", "places"])
    ids = op.GatherElements(op.Mul(input_ids, chunk_mask), places, axis=1)  # padding may have any id
    chunk = Chunk(
        ids=ids,
        length=length,
        tokens=op.ReduceSum(mask, [1], keepdims=0),
        real=op.ReduceSum(chunk_mask, [1], keepdims=0),
        past_key=past_key,
        total_length=op.Shape(attention_mask, start=1, end=2),
    )
    return chunk, chunk_mask


def _select_last(op: OpBuilder, chunk: Chunk, num_kept: ir.Value | None) -> Select:
    """Select the rows of the last real tokens: one, or `num_kept` [1], repeating the first if there are fewer."""
    rows = op.Unsqueeze(op.Sub(chunk.real, 1), [1, 2])  # [batch, 1, 1]
    if num_kept is not None:
        before_last = op.Range(op.Sub(op.Squeeze(num_kept), 1), -1, -1)  # [kept]
        rows = op.Max(op.Sub(rows, op.Unsqueeze(before_last, [1])), 0)  # [batch, kept, 1]
    return _gather(rows)


def _as_given(op: OpBuilder, chunk_mask: ir.Value) -> Select:
    """Select all rows, in the host's order. Padding positions get the rows of other tokens."""
    rows = op.Sub(op.CumSum(chunk_mask, 1), 1)  # [batch, seq]; -1 is the last
    return _gather(op.Unsqueeze(rows, [2]))


def _gather(rows: ir.Value) -> Select:
    def select(op: OpBuilder, x: ir.Value) -> ir.Value:
        kept = op.GatherND(x, rows, batch_dims=1)
        kept.type = x.type
        return kept

    return select
