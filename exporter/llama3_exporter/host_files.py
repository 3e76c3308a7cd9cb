"""The small files that other ONNX Runtime apps read beside a graph.

onnxruntime-genai reads genai_config.json and refuses unknown keys, so our own facts are not there. transformers and
Optimum read config.json and generation_config.json. All of them read the two tokenizer files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from llama3_custom_ops import LIBRARY, built_library
from llama3_models.config import YARN_BETA_FAST, YARN_BETA_SLOW, Hyperparameters, RopeScaling, yarn_range
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import GRAPH, WASM_GRAPH, WEBGPU_GRAPH
from llama3_models.gguf.file import GGUFFile
from llama3_models.tokenizer.vocabulary import NoTokenizerError, Vocabulary

from llama3_exporter.tokenizers.json_files import tokenizer_config, tokenizer_json
from llama3_exporter.tokenizers.read_back import cannot_use

# genai allocates the whole KV cache of `search.max_length` at once, so the default is far below a long context.
_GENAI_MAX_LENGTH = 4096

# How Llama 3.1, 3.2 and 3.3 extend Llama 3's context. Their GGUFs have only the resulting divisors.
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

_NO_NAME_FOR_SCALING = (
    "config.json omits this model's RoPE scaling, because transformers has no name for it; the graph has it"
)


def to_json(content: object) -> bytes:
    r"""Return indented UTF-8 JSON. Bytes of a file name that are not UTF-8 become escapes, such as \udce9."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def read_tokenizer(file: GGUFFile, pre_tokenizer: str | None = None) -> tuple[Vocabulary | None, str | None]:
    """Return the vocabulary of a GGUF, or None and the reason if it has none that is supported.

    Args:
        file: The GGUF.
        pre_tokenizer: Name of a pre-tokenizer to use instead of the file's.

    Raises:
        UsageError: `pre_tokenizer` is unknown, or the vocabulary does not use one.
    """
    try:
        return Vocabulary.from_gguf(file, pre_tokenizer), None
    except NoTokenizerError as error:
        return None, str(error)
    except UsageError:
        raise
    except Llama3Error as error:
        return None, cannot_use(file.path, error)


def host_files(
    file: GGUFFile, config: Hyperparameters, vocabulary: Vocabulary | None, max_length: int, *, native: bool
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the content of each file by name, and warnings about what they omit.

    With native ops, their library is one of the files: onnxruntime-genai loads it only from the folder.

    If the GGUF's tokenizer is missing or not supported, there are no tokenizer files: the weights are usable without
    them.
    """
    genai_config = _genai_config(config, vocabulary, max_length)
    files: dict[str, bytes] = {}
    warnings: tuple[str, ...] = ()
    if native:
        library = built_library()
        if library is not None:
            files[LIBRARY] = library.read_bytes()
            genai_config["model"]["decoder"]["session_options"]["custom_ops_library"] = LIBRARY
    own_config = {**_config(config, vocabulary, max_length), **_biases(file, config)}
    if config.rope_scaling is not None and own_config["rope_scaling"] is None:
        warnings = (_NO_NAME_FOR_SCALING,)
    files["config.json"] = to_json(own_config)
    files["generation_config.json"] = to_json(_special_ids(vocabulary))
    files["genai_config.json"] = to_json(genai_config)
    if vocabulary is not None:
        # Not indented, because it has megabytes.
        compact = json.dumps(tokenizer_json(vocabulary), ensure_ascii=False, separators=(",", ":"))
        files["tokenizer.json"] = compact.encode()
        files["tokenizer_config.json"] = to_json(tokenizer_config(vocabulary))
    return files, warnings


def web_config(config: bytes, num_shards: int, *, unpacked_on_cpu: bool) -> bytes:
    """Add to config.json what transformers.js reads: which graph each device loads, and its number of weights files.

    Args:
        config: The file.
        num_shards: Number of weights files of each graph.
        unpacked_on_cpu: Whether Node's CPU loads the graph for WebAssembly: it is faster, but needs more memory.
    """
    num_files = {Path(graph).name: num_shards for graph in (WEBGPU_GRAPH, WASM_GRAPH)}
    types = {"webgpu": "q4", "wasm": "fp32", "cpu": "fp32" if unpacked_on_cpu else "q4"}
    own = {
        "dtype": "q4",  # for other devices
        "use_external_data_format": num_files,
        "device_config": {
            device: {"dtype": dtype, "use_external_data_format": num_files} for device, dtype in types.items()
        },
    }
    return to_json({**json.loads(config), "transformers.js_config": own})


def _special_ids(vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Return the ids of the first, end and padding tokens. Apps stop at any end token in the list."""
    if vocabulary is None:
        return {}
    ids: dict[str, Any] = {}
    if vocabulary.bos_id is not None:
        ids["bos_token_id"] = vocabulary.bos_id
    ends = sorted(vocabulary.eog_ids)
    if ends:
        ids["eos_token_id"] = ends
        ids["pad_token_id"] = ends[0] if vocabulary.eos_id is None else vocabulary.eos_id
    if vocabulary.pad_id is not None:
        ids["pad_token_id"] = vocabulary.pad_id
    return ids


def _config(config: Hyperparameters, vocabulary: Vocabulary | None, max_length: int) -> dict[str, Any]:
    return {
        "architectures": [config.architecture.model_class],
        "model_type": config.architecture.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": max_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling(config),
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        "use_cache": True,
        **_special_ids(vocabulary),
    }


def _rope_scaling(config: Hyperparameters) -> dict[str, Any] | None:
    """Return the scaling in transformers' terms; None if there is none, or if transformers has no name for it."""
    scaling = config.rope_scaling
    if scaling is None:
        return None
    if scaling.frequency_factors is not None:
        return _llama3_scaling(config, scaling.frequency_factors)
    if scaling.original_context is not None or scaling.attention_factor != 1:
        return _yarn_scaling(config, scaling)
    return {"rope_type": "linear", "factor": scaling.factor}


def _llama3_scaling(config: Hyperparameters, factors: tuple[float, ...]) -> dict[str, Any] | None:
    factor = max(factors)
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    frequencies = config.rope_theta ** -(np.arange(0, config.rotary_dim, 2) / config.rotary_dim)
    turns = frequencies * _LLAMA3_ROPE["original_max_position_embeddings"] / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    divisors = 1 / ((1 - smooth) / factor + smooth)
    alone = config.rope_scaling == RopeScaling(frequency_factors=factors)
    if not (alone and np.allclose(factors, divisors, rtol=1e-5, atol=0)):
        return None
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_ROPE}


def _yarn_scaling(config: Hyperparameters, scaling: RopeScaling) -> dict[str, Any] | None:
    """Return YaRN with the numbers that transformers would otherwise choose itself.

    YaRN with factor 1 expresses an attention factor alone.
    """
    original = scaling.original_context or config.max_position_embeddings
    first, last = yarn_range(config.rotary_dim, config.rope_theta, original)
    # transformers has no attention factor for linear scaling, and another rule for such a short context.
    if scaling.factor != 1 and (scaling.original_context is None or last < first):
        return None
    return {
        "rope_type": "yarn",
        "factor": scaling.factor,
        "original_max_position_embeddings": original,
        "attention_factor": scaling.attention_factor,
        "beta_fast": YARN_BETA_FAST,
        "beta_slow": YARN_BETA_SLOW,
    }


def _biases(file: GGUFFile, config: Hyperparameters) -> dict[str, bool]:
    """Return whether linears have biases, if the architecture allows both: by default, transformers' Llama has none."""
    if not any(name.endswith(".bias") for name in config.architecture.optional):
        return {}
    biases = [name for name in file.tensors if name.endswith(".bias")]
    return {
        "attention_bias": any(".attn_" in name for name in biases),
        "mlp_bias": any(".ffn_" in name for name in biases),
    }


def _genai_config(config: Hyperparameters, vocabulary: Vocabulary | None, max_length: int) -> dict[str, Any]:
    model = {
        "type": config.architecture.model_type,
        **_special_ids(vocabulary),
        "context_length": max_length,
        "vocab_size": config.vocab_size,
        "decoder": {
            "filename": GRAPH,
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "head_size": config.head_dim,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "num_key_value_heads": config.num_key_value_heads,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    }
    search = {
        "do_sample": False,
        "max_length": min(max_length, _GENAI_MAX_LENGTH),
        "past_present_share_buffer": True,
    }
    return {"model": model, "search": search}
