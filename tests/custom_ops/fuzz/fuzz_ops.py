"""A fuzzer of the ops: it runs valid graphs, and graphs with wrong attributes, shapes or values or missing tensors.

Each case must run or be refused with a status. A crash ends the process, so a parent process watches it and reads the
number of the last case from a file. `python -m tests.custom_ops.fuzz.fuzz_ops SECONDS FIRST_CASE CASE_FILE` continues
there. A library built with sanitizers (LLAMA3_CUSTOM_OPS_SANITIZE=address,undefined, with libasan.so preloaded) also
reports reads outside a tensor that do not crash.
"""

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.custom_ops.kernel_library import FORMATS, block_shape
from tests.custom_ops.op_sessions import (
    DOUBLE,
    FLOAT,
    FLOAT16,
    INT32,
    INT64,
    ORT_ERRORS,
    UINT8,
    model_of,
    open_session,
)

ONNX_TYPES = {"float32": FLOAT, "float16": FLOAT16, "uint8": UINT8, "int32": INT32, "int64": INT64, "float64": DOUBLE}
EDGES = [-(2**63), -(2**31), -1, 0, 1, 2, 7, 31, 32, 33, 255, 256, 257, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1]


class Case:
    """A node: its inputs as arrays, the types of its outputs, and its attributes."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.op = ""
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, int] = {}
        self.attributes: dict[str, Any] = {}
        makers = (self.make_matmul, self.make_matmuls, self.make_gather, self.make_attention)
        makers[rng.integers(len(makers))]()

    def pick(self, *low_high: int) -> int:
        return int(self.rng.integers(*low_high))

    def floats(self, *shape: int) -> np.ndarray:
        values = self.rng.standard_normal(shape).astype(np.float32)
        if self.pick(8) == 0 and values.size:
            values.flat[self.pick(values.size)] = self.rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-44])
        return values

    def weight(self, N: int, blocks_of_256: int) -> tuple[np.ndarray, str]:
        name = FORMATS[self.pick(len(FORMATS))]
        block_weights, block_bytes = block_shape(name)
        shape = (N, blocks_of_256 * 256 // block_weights, block_bytes)
        return self.rng.integers(0, 256, shape, dtype=np.uint8), name

    def leading(self) -> list[int]:
        return [self.pick(1, 3) for _ in range(self.pick(3))] + [self.pick(0, 20)]

    def make_matmul(self) -> None:
        N, blocks = self.pick(1, 70), self.pick(1, 4)
        B, name = self.weight(N, blocks)
        self.op, self.outputs = "BlockQuantizedMatMul", {"Y": FLOAT}
        self.inputs = {"A": self.floats(*self.leading(), blocks * 256), "B": B}
        if self.pick(2):
            self.inputs["bias"] = self.floats(N)
        self.attributes = {"K": blocks * 256, "N": N, "format": name, "activations": self.activations()}

    def make_matmuls(self) -> None:
        count, blocks = self.pick(1, 5), self.pick(1, 4)
        weights = [self.weight(self.pick(1, 70), blocks) for _ in range(count)]
        self.op, self.outputs = "BlockQuantizedMatMuls", {f"Y{i}": FLOAT for i in range(count)}
        self.inputs = {"A": self.floats(*self.leading(), blocks * 256)}
        self.inputs |= {f"B{i}": B for i, (B, _) in enumerate(weights)}
        formats = ",".join(name for _, name in weights)
        self.attributes = {"K": blocks * 256, "Ns": [len(B) for B, _ in weights], "formats": formats}
        self.attributes["activations"] = self.activations()

    def make_gather(self) -> None:
        N, blocks = self.pick(1, 70), self.pick(1, 4)
        B, name = self.weight(N, blocks)
        self.op, self.outputs = "BlockQuantizedGather", {"Y": FLOAT}
        self.inputs = {"B": B, "ids": self.rng.integers(0, N, self.leading())}
        self.attributes = {"K": blocks * 256, "format": name}

    def make_attention(self) -> None:
        batch, new, kv_heads, group = self.pick(1, 4), self.pick(1, 20), self.pick(1, 4), self.pick(1, 5)
        head_dim, past, room = 8 * self.pick(1, 10), self.pick(0, 40), self.pick(0, 5)
        begins, own_lengths = self.pick(3) == 0, self.pick(2) == 0
        cache = ("float16", "float32")[self.pick(2)]
        self.op = "CachedAttention"
        if own_lengths:
            room = 0  # the past is not in a shared buffer
            lengths = self.rng.integers(0, new + 1, batch)
            tokens = lengths + self.rng.integers(0, past + 1, batch)
        else:
            tokens = self.rng.integers(0 if begins else new, (0 if begins else past) + new + 1, batch)
        self.inputs = {
            "q": self.floats(batch, new, kv_heads * group * head_dim),
            "k": self.floats(batch, new, kv_heads * head_dim),
            "v": self.floats(batch, new, kv_heads * head_dim),
            "past_key": self.floats(batch, kv_heads, past + room, head_dim).astype(cache),
            "past_value": self.floats(batch, kv_heads, past + room, head_dim).astype(cache),
            "seqlens_k": tokens.astype(np.int32) - 1,
            "total_length": np.array(new if begins and not own_lengths else past + new, np.int32),
            "inv_freq": self.rng.uniform(0, 1, self.pick(0, head_dim // 2 + 1)),
        }
        if own_lengths:
            self.inputs["seqlens_q"] = lengths.astype(np.int32)
        self.outputs = {"y": FLOAT, "present_key": ONNX_TYPES[cache], "present_value": ONNX_TYPES[cache]}
        self.attributes = {"num_heads": kv_heads * group, "kv_num_heads": kv_heads, "scale": 0.2}

    def activations(self) -> str:
        return ("int8", "float32")[self.pick(2)]

    def mutate(self) -> None:
        changes: list[Callable[[], None]] = [
            self.change_attribute,
            self.drop_attribute,
            self.change_shape,
            self.change_values,
            self.drop_input,
            self.swap_inputs,
            self.drop_output,
            self.name_attribute_of_another_type,
        ]
        for _ in range(self.pick(1, 3)):
            changes[self.pick(len(changes))]()

    def an_attribute(self) -> str:
        names = list(self.attributes)
        return names[self.pick(len(names))]

    def an_input(self) -> str:
        names = list(self.inputs)
        return names[self.pick(len(names))]

    def an_edge(self, near: int) -> int:
        return EDGES[self.pick(len(EDGES))] if self.pick(2) else near + self.pick(-2, 3)

    def change_attribute(self) -> None:
        name = self.an_attribute()
        value = self.attributes[name]
        if isinstance(value, int):
            self.attributes[name] = min(max(self.an_edge(value), -(2**63)), 2**63 - 1)
        elif isinstance(value, str):
            others = [*FORMATS, "", "Q4_K", "int8", "q4_k,", ",".join(["q8_0"] * self.pick(20)), "x" * 5000]
            self.attributes[name] = others[self.pick(len(others))]
        elif isinstance(value, list) and isinstance(value[0], int):
            value[self.pick(len(value))] = self.an_edge(value[0])

    def drop_attribute(self) -> None:
        del self.attributes[self.an_attribute()]
        self.attributes = self.attributes or {"unknown": 1}

    def name_attribute_of_another_type(self) -> None:
        values: list[Any] = [1.5, "text", [1, 2], [0.5], ["a", "b"], 3]
        self.attributes[self.an_attribute()] = values[self.pick(len(values))]

    def change_shape(self) -> None:
        name = self.an_input()
        shape = list(self.inputs[name].shape)
        change = self.pick(4)
        if change == 0 and shape:
            del shape[self.pick(len(shape))]
        elif change == 1 and len(shape) < 10:
            shape.insert(self.pick(len(shape) + 1), self.pick(0, 4))
        elif shape:
            axis = self.pick(len(shape))
            shape[axis] = self.pick(0, 4) if change == 2 else max(0, shape[axis] + self.pick(-2, 3))
        if np.prod(shape, dtype=float) < 1e6:
            self.inputs[name] = np.resize(self.inputs[name], shape)

    def change_values(self) -> None:
        name = self.an_input()
        array = self.inputs[name] = self.inputs[name].copy()
        if array.size and array.dtype.kind == "i":
            limits = np.iinfo(array.dtype)
            edge = self.an_edge(int(array.flat[0]))
            array.flat[self.pick(array.size)] = min(max(edge, limits.min), limits.max)
        elif array.size and array.dtype.kind == "f":
            array.flat[self.pick(array.size)] = self.rng.choice([np.nan, np.inf, -1e30, 1e5]).astype(array.dtype)

    def drop_input(self) -> None:
        if len(self.inputs) > 1:
            del self.inputs[self.an_input()]

    def swap_inputs(self) -> None:
        a, b = self.an_input(), self.an_input()
        self.inputs[a], self.inputs[b] = self.inputs[b], self.inputs[a]

    def drop_output(self) -> None:
        if len(self.outputs) > 1:
            self.outputs.popitem()

    def run(self) -> None:
        """Run the node. Inputs are constants or fed, with shapes declared completely, partly or not at all."""
        graph: dict[str, Any] = {}
        feeds = {}
        for name, array in self.inputs.items():
            shape: list[int | str | None] | None = list(array.shape)
            if self.pick(2) and array.dtype.kind in "uf" and name not in ("A", "q"):
                graph[name] = array
                continue
            for axis in range(array.ndim):
                if self.pick(2) and shape:
                    shape[axis] = None
            graph[name] = (ONNX_TYPES[array.dtype.name], shape if self.pick(2) else None)
            feeds[name] = array
        session = open_session(model_of(self.op, graph, self.outputs, **self.attributes), self.pick(1, 4), arena=False)
        session.run(None, feeds)


def main(seconds: float, first: int, case_file: Path) -> None:
    end = time.monotonic() + seconds
    ran = refused = 0
    with case_file.open("w") as current, np.errstate(all="ignore"):
        for number in itertools.count(first):
            if time.monotonic() > end:
                break
            current.seek(0)
            current.write(f"{number}\n")
            current.flush()
            case = Case(np.random.default_rng(number))
            right = case.pick(3) == 0
            if not right:
                case.mutate()
            try:
                case.run()
                ran += 1
            except ORT_ERRORS:
                if right:
                    raise
                refused += 1
    print(f"{ran} ran, {refused} were refused")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
