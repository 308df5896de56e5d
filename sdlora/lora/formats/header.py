"""The header and the values of an untrusted safetensors file. Knows nothing about LoRA, and nothing of torch.

The header is parsed here, not by the library, because the library accepts duplicate names, leading spaces, empty tensors and
any tensor name. Values are read by copy, never by mmap: a file may change or vanish while it is open.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from sdlora import storage
from sdlora.errors import UserError, distinct_decimals

MAX_HEADER_BYTES = 25 * 1024 * 1024
MAX_FILE_BYTES = 2 * 10**9  # of a LoRA: one of rank 128 on all of Stable Diffusion XL in fp32 has 1.6 GB
MAX_TENSORS = 20_000
MAX_NAME = 300
BLOCK = 2**20  # bytes hashed at a time
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
               "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
               "BOOL": "bool", "U64": "uint64", "U32": "uint32", "U16": "uint16"}
NUMPY = {**{name: np.dtype(kind).newbyteorder("<") for name, kind in TORCH_NAMES.items() if not name.startswith(("BF", "F8"))},
         "BF16": np.dtype("<u2"), "F8_E4M3": np.dtype("u1"), "F8_E5M2": np.dtype("u1"), "BOOL": np.dtype("u1")}  # bit patterns
UNREAD = ("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2", "C64")  # the other formats of safetensors
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
MAGIC = {b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a RAR archive",
         b"\x28\xb5\x2f\xfd": "a zstd archive", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture",
         b"RIFF": "a picture or sound", b"%PDF": "a PDF"}
NOT_A_LORA = ", not a LoRA."
AGAIN = "Download or export it again."
NAN = "{module} holds values that are not numbers (NaN or infinite)."
CONVERT = ("Ask for the .safetensors version, or make one, which reads numbers only and runs nothing: python -c \"import torch, "
           "safetensors.torch as s; w = torch.load('{name}', weights_only=True); s.save_file(w.get('state_dict', w), "
           "'{stem}.safetensors')\"")


class UnreadFormat(ValueError):
    """The name of a number format that safetensors has and sdlora does not read."""


@dataclass(frozen=True)
class Header:
    """A checked header. tensors: {name: (dtype such as "F16", shape)}; spans: {name: (begin, end)}, bytes within the data."""
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]
    spans: dict[str, tuple[int, int]]
    data_start: int
    file_bytes: int


def header(path: Path) -> Header:
    """Read and check the header of `path`; no tensor is read. Raises UserError for everything that is not safetensors."""
    with open_file(path) as file:
        return read_header(file, Path(path))


def contents(path: Path) -> tuple[Header, bytearray]:
    """Return the header and a private copy of all tensor bytes. Raises UserError, for more than MAX_FILE_BYTES too."""
    with open_file(path) as file:
        found = read_header(file, Path(path))
        refuse_size(Path(path).name, found.file_bytes)
        data = bytearray(found.file_bytes - found.data_start)
        file.seek(found.data_start)
        if file.readinto(data) != len(data):
            raise UserError(f"{Path(path).name} changed while it was read.", "Try again.")
        return found, data


def refuse_size(name: str, file_bytes: int) -> None:
    """Raise UserError for a file that is larger than any LoRA."""
    if file_bytes > MAX_FILE_BYTES:
        size, most = distinct_decimals(file_bytes / 1e9, MAX_FILE_BYTES / 1e9)
        raise UserError(f"{name} has {size} GB; a LoRA has {most} GB at most.",
                        "It was not read: choose another file, or make a smaller one where it was made.")


def open_file(path: Path) -> BufferedReader:
    """Open `path` for reading bytes. Raises UserError for a missing file, and for a pickle by its name."""
    path = Path(path)
    if path.suffix.lower() in storage.PICKLES:
        raise UserError(f"{path.name} is a pickle file: opening it could run a program hidden inside.",
                        CONVERT.format(name=path.name, stem=path.stem))
    try:
        return storage.open_regular(path)
    except OSError as error:
        raise UserError(f"{path.name} could not be opened ({error.strerror}).", "Check the name and try again.") from error


def read_header(file: BufferedReader, path: Path) -> Header:
    """Return the checked header of an open file. Raises UserError."""
    size = file.seek(0, 2)
    file.seek(0)
    first = file.read(9)
    length = int.from_bytes(first[:8], "little")
    if len(first) < 9 or first[8:9] != b"{" or length > size - 8:
        file.seek(0)
        why = describe_other(file.read(512), length, size)
        raise UserError(f"{path.name} {why}", "Choose the .safetensors file of the LoRA." if why.endswith(NOT_A_LORA) else AGAIN)
    if length > MAX_HEADER_BYTES:
        raise UserError(f"{path.name} has a header of {length / 1e6:.0f} MB; a LoRA file has far less.", AGAIN)
    file.seek(8)
    try:
        parsed = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=without_duplicates,
                            parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"{path.name} has a damaged header: it is no JSON from character {error.pos + 1} on.", AGAIN) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} has a damaged header: it is no text from byte {error.start + 1} on.", AGAIN) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{path.name} has a damaged header ({reason}).", AGAIN) from error
    try:
        return check_header(parsed, 8 + length, size)
    except UnreadFormat as error:
        raise UserError(f"{path.name} keeps its numbers as {error}, which sdlora does not read.",
                        "Ask for the file in fp16, bf16 or fp32.") from error
    except ValueError as error:
        raise UserError(f"{path.name} is damaged or was tampered with: {error}.", AGAIN) from error


def describe_other(start: bytes, length: int, size: int) -> str:
    """Return what a file is that is no safetensors file, by its first bytes: the end of a sentence."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size < 9 or not length:
        return "is empty or an incomplete download."
    if text.startswith(b"version https://git-lfs"):
        return "is only a git-lfs pointer: the file itself was never fetched."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not a LoRA: the site sent a page instead of the file."
    if text.startswith((b"{", b"[")):
        return "is a JSON text, probably an error message of the site it came from."
    if start.startswith(b"PK\x03\x04"):
        return "is a zip or a pickle file renamed to safetensors; it was not opened."
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "is a pickle file renamed to safetensors; it was not opened."
    if start.startswith(b"GGUF"):
        return f"is a GGUF model{NOT_A_LORA}"
    if kind := next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None):
        return f"is {kind}{NOT_A_LORA}"
    return "is no safetensors file, or an incomplete download."


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of the header. ValueError for a name that occurs twice: readers would disagree on the file."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's JSON reader would accept."""
    raise ValueError(f"{name} is no number")


def check_header(parsed: Any, data_start: int, size: int) -> Header:
    """Return the header: every entry well formed, the spans covering the data exactly. ValueError says what is wrong."""
    metadata = parsed.pop("__metadata__", {}) if isinstance(parsed, dict) else ""
    metadata = {} if metadata is None else metadata  # the library accepts null too
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not made of texts")
    if not parsed:
        raise ValueError("there is no style inside, not a single tensor")
    if len(parsed) > MAX_TENSORS:
        raise ValueError(f"it lists {len(parsed)} tensors, more than {MAX_TENSORS}")
    tensors, spans = {}, {}
    for name, entry in parsed.items():
        tensors[name], spans[name] = check_entry(name, entry)
    at = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != at:
            raise ValueError(f"the bytes of {name!r} overlap or leave a hole")
        at = end
    if at != size - data_start:
        raise ValueError(f"{abs(size - data_start - at)} bytes {'are missing' if at > size - data_start else 'too many'}")
    return Header(tensors, metadata, spans, data_start, size)


def check_entry(name: str, entry: Any) -> tuple[tuple[str, tuple[int, ...]], tuple[int, int]]:
    """Return ((dtype, shape), (begin, end)) of one tensor. ValueError when the entry is not well formed."""
    if len(name) > MAX_NAME or not name.isprintable() or any(part in name for part in ("/", "\\", "..")):
        raise ValueError(f"the tensor name {name[:60]!r} is none that a LoRA has")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"the entry of {name!r} is not a tensor")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, str) and dtype in UNREAD:
        raise UnreadFormat(dtype)
    if not isinstance(dtype, str) or dtype not in TORCH_NAMES:
        raise ValueError(f"{name!r} has the unknown number format {str(dtype)[:20]}")
    for values, most in ((shape, 8), (span, 2)):
        if not isinstance(values, list) or len(values) > most or not all(type(v) is int and 0 <= v < 2**62 for v in values):
            raise ValueError(f"{name!r} has an impossible shape or place")
    if len(span) != 2 or span[1] - span[0] != math.prod(shape) * NUMPY[dtype].itemsize:
        raise ValueError(f"the size of {name!r} does not fit its shape")
    return (dtype, tuple(shape)), (span[0], span[1])


def digests(path: Path, data_start: int, stop: Callable[[], bool] = lambda: False) -> tuple[str, str] | None:
    """Return the SHA-256 of the tensors (the bytes from `data_start` on) and of the whole file; None when `stop` returned true.

    Raises OSError.
    """
    tensors, whole = sha256(), sha256()
    with storage.open_regular(path) as file:
        whole.update(file.read(data_start))
        while block := file.read(BLOCK):
            tensors.update(block)
            whole.update(block)
            if stop():
                return None
    return tensors.hexdigest(), whole.hexdigest()


def array(found: Header, data: bytes | bytearray, name: str) -> np.ndarray:
    """Return the values of one tensor as numpy: 64-bit formats as they are, all others as float32 (BF16 and F8 too)."""
    dtype, shape = found.tensors[name]
    begin, end = found.spans[name]
    values = np.frombuffer(memoryview(data)[begin:end], NUMPY[dtype])
    if dtype == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    elif dtype == "F8_E5M2":
        values = (values.astype("<u2") << 8).view("<f2").astype("<f4")
    elif dtype == "F8_E4M3":
        values = E4M3[values.astype(np.intp)]
    elif dtype not in ("F64", "I64", "U64"):
        values = values.astype("<f4")
    return values.reshape(shape)


def e4m3_values() -> np.ndarray:
    """Return the 256 numbers of F8_E4M3 (finite kind: no infinity, 0x7F and 0xFF are NaN)."""
    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    magnitude = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0**(exponent - 7.0))
    magnitude[(codes & 127) == 127] = np.nan
    return np.where(codes > 127, -magnitude, magnitude).astype("<f4")


E4M3 = e4m3_values()
