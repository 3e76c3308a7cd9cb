"""Descriptions of files that are not GGUFs, by their first bytes, with what to do about each.

The magic numbers are from each format's specification. The texts are those that Hugging Face's Hub and storage servers
send instead of a file; a download script that ignores the status saves them under the model's name.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final

HEAD_BYTES: Final = 1024
"""How many of a file's first bytes `described` needs."""

_UNKNOWN: Final = "not a GGUF file; download it again, or use another file"
_USE_A_GGUF: Final = "use a GGUF"  # for a file that is not a model in any format

_CONVERT: Final = "convert the model with llama.cpp's convert_hf_to_gguf.py, or download a GGUF of it"
_LOGIN: Final = "log in with `hf auth login` and download it again"

_LONGEST_SAFETENSORS_HEADER: Final = 100_000_000  # the specification's own bound

# Each format's name, and a program that unpacks it.
_COMPRESSED: Final[Mapping[bytes, tuple[str, str]]] = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"\x04\x22\x4d\x18": ("LZ4", "unlz4"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"),
    b"Rar!\x1a\x07": ("RAR", "unrar x"),
}

_OTHER: Final[Mapping[bytes, str]] = {
    **dict.fromkeys(
        (b"lmgg", b"fmgg", b"tjgg", b"algg"),
        "a GGML file from before GGUF (2023), no longer supported; download a GGUF of the model",
    ),
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), f"a PyTorch checkpoint, not a GGUF; {_CONVERT}"
    ),
    b"\x93NUMPY": f"a NumPy array, not a model; {_USE_A_GGUF}",
    b"\x89HDF\r\n": f"an HDF5 file, not a GGUF; {_CONVERT}",
    b"\x7fELF": f"a program, not a model; {_USE_A_GGUF}",
    b"MZ": "a program or a llamafile, not a GGUF; if it is a llamafile, extract the .gguf file with unzip",
}

# Words that servers send instead of a file, in lower case, and what to do about it. The first match counts.
_ANSWERS: Final[Mapping[str, str]] = {
    "is restricted": f"accept the model's license on its page, {_LOGIN}",
    "gated": f"accept the model's license on its page, {_LOGIN}",
    "invalid username or password": _LOGIN,
    "invalid credentials": _LOGIN,
    "unauthorized": _LOGIN,
    "authentication": _LOGIN,
    "expired": "get a new link from the model's page and download it again",
    "access denied": "get a new link from the model's page and download it again",
    "accessdenied": "get a new link from the model's page and download it again",
    "forbidden": f"check the model's page for conditions, {_LOGIN}",
    "redirect": "download it again with a program that follows redirects, such as `curl -L`",
    "rate limit": "wait a few minutes and download it again",
    "too many requests": "wait a few minutes and download it again",
    "entry not found": "look up the file's name on the model's page and download it again",
    "repository not found": f"look up the model's name, or if it is private, {_LOGIN}",
    "revision not found": "look up the branch on the model's page and download it again",
    "not found": "look up the link on the model's page and download it again",
    "internal server error": "download it again later",
    "bad gateway": "download it again later",
    "service unavailable": "download it again later",
    "gateway timeout": "download it again later",
}

_JSON_ANSWER: Final = re.compile(r'[{\[]\s*["\'](error|errors|message|detail|code|status|statuscode)["\']')

_BYTE_ORDER_MARKS: Final[Mapping[bytes, str]] = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}


def described(head: bytes) -> str:
    """Describe a file by its first `HEAD_BYTES`, and say what to do about it: the end of a message, after the path."""
    if not head:
        return "an empty file; download it again"
    for magic, (name, program) in _COMPRESSED.items():
        if head.startswith(magic):
            return f"compressed with {name}; unpack it with `{program}` and use the .gguf file that comes out"
    for magic, what in _OTHER.items():
        if head.startswith(magic):
            return what
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(head)
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it with `tar xf` and use the .gguf file in it"
    if _is_safetensors(head):
        return f"a safetensors file, not a GGUF; {_CONVERT}"
    if _is_onnx(head):
        return (
            "an ONNX graph, not a GGUF; use its folder with llama3-run or llama3-inspect; llama3-export needs the GGUF "
            "that it was made from"
        )
    if _is_old_imatrix(head):
        return "an importance matrix (imatrix), not a model; it is for llama-quantize: use the model's own GGUF"
    text = _text(head)
    return _UNKNOWN if text is None else _described_text(text)


def leads_to_a_model(description: str) -> bool:
    """Return whether a description from `described` says how to get from the file to a model."""
    return description != _UNKNOWN and not description.endswith(_USE_A_GGUF)


def _zip(head: bytes) -> str:
    """Describe a zip archive by the name of its first file; PyTorch and NumPy use typical ones."""
    name_length = int.from_bytes(head[26:28], "little")
    name = head[30 : 30 + name_length].decode("utf-8", "replace")
    if name.endswith((".pkl", "/version", "/byteorder", "/.format_version")) or ".data/" in name:
        return f"a PyTorch checkpoint, not a GGUF; {_CONVERT}"
    if name.endswith(".npy"):
        return f"NumPy arrays (.npz), not a model; {_USE_A_GGUF}"
    return "a zip archive; unpack it with `unzip` and use the .gguf file in it"


def _is_safetensors(head: bytes) -> bool:
    """Check for a limited size and a header in JSON; in a text file, the first bytes would be a larger size."""
    return head[8:10] in (b'{"', b"{ ") and int.from_bytes(head[:8], "little") <= _LONGEST_SAFETENSORS_HEADER


def _is_onnx(head: bytes) -> bool:
    """Check for a protobuf message: a small format version in field 1, then field 2 (the producer) or 7 (the graph)."""
    return head[:1] == b"\x08" and len(head) > 3 and 1 <= head[1] <= 32 and head[2] in (0x12, 0x3A)


def _is_old_imatrix(head: bytes) -> bool:
    """Check for llama-imatrix's format before GGUF: a count, then each tensor's name after the name's length."""
    if len(head) < 16:
        return False
    count, length = struct.unpack_from("<ii", head)
    name = head[8 : 8 + length] if 0 < length <= 256 else b""
    return 0 < count < 1 << 20 and name.endswith(b".weight") and name.isascii()


def _text(head: bytes) -> str | None:
    """Decode the beginning of a file, or return None if it is not text."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return head[len(mark) :].decode(encoding, "replace").strip()
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # the head may end inside a character
            return None
        text = head[: error.start].decode("utf-8")
    if any(character < " " and character not in "\t\n\r\f" for character in text):
        return None
    return text.strip()


def _described_text(text: str) -> str:
    lower = text.lower()
    if lower.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the model itself; fetch the model with `git lfs pull`"
    if lower.startswith(("{", "[")) and _JSON_ANSWER.match(lower) is None:
        return _described_json(lower)
    if lower.startswith("<"):
        if "<error>" not in lower:
            return "a web page, not a model; on Hugging Face, use the link of the file, with /resolve/, not /blob/"
        text = text[lower.index("<error>") :]
    shown = "".join(character if character.isprintable() else "?" for character in " ".join(text.split())[:60])
    if len(text) < HEAD_BYTES // 2:  # answers are short; a long text may only mention, say, rate limits
        for words, advice in _ANSWERS.items():
            if words in lower:
                return f"a server's answer, not a model ({shown!r}); {advice}"
    if lower.startswith(("{", "<")):
        return f"a server's answer, not a model ({shown!r}); download it again"
    if not text:
        return f"an empty text file, not a model; {_USE_A_GGUF}"
    return f"a text file, not a model ({shown!r}); {_USE_A_GGUF}"


def _described_json(lower: str) -> str:
    if '"weight_map"' in lower or re.search(r'"total_size"\s*:', lower):
        return f"the index of a safetensors model, not a GGUF; {_CONVERT}"
    if "application/vnd.ollama" in lower or "application/vnd.docker" in lower:
        return (
            "an Ollama manifest, not the model itself; use the file in Ollama's blobs folder that its layer "
            "'application/vnd.ollama.image.model' names"
        )
    return f"JSON, not a model; {_USE_A_GGUF}"
