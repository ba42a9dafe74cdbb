"""Reads and writes safetensors files with NumPy alone.

NumPy has no bfloat16. Here an array of dtype BF16 holds its bits: `to_bf16` makes one, `save`
writes it as BF16, and `load` widens BF16 to float32 (exactly).
"""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Mapping

import numpy as np

BF16 = np.dtype([("bf16_bits", "<u2")])

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BF16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000
_ALIGNMENT = 8


class SafetensorsError(Exception):
    """The file is not a safetensors file that this module can read."""


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounds to the nearest bfloat16, ties to even. The values must be finite and stay so."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    if np.any((rounded & 0x7F80) == 0x7F80):
        raise ValueError("a value is not finite in bfloat16")
    return rounded.astype("<u2").view(BF16)


def from_bf16(values: np.ndarray) -> np.ndarray:
    """The bfloat16 values as float32, exactly."""
    return (values["bf16_bits"].astype("<u4") << 16).view("<f4")


def save(
    path: pathlib.Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the tensors in the given order, each with its own dtype."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, array in tensors.items():
        if array.dtype not in _NAMES:
            raise ValueError(f"tensor {name}: dtype {array.dtype} has no safetensors name here")
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    encoded += b" " * (
        -len(encoded) % _ALIGNMENT
    )  # the format pads with spaces, so data is aligned
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


def load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors (BF16 as float32) and the metadata."""
    data = pathlib.Path(path).read_bytes()
    if len(data) < 8:
        raise SafetensorsError(f"{path}: shorter than its length field")
    (header_size,) = struct.unpack_from("<Q", data)
    if header_size > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise SafetensorsError(f"{path}: header of {header_size} bytes does not fit the file")
    try:
        header = json.loads(data[8 : 8 + header_size])
        metadata = header.pop("__metadata__", {})
        tensors = {
            name: _read_tensor(data, 8 + header_size, entry) for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SafetensorsError(f"{path}: bad header: {error!r}") from error
    return tensors, metadata


def _read_tensor(data: bytes, data_start: int, entry: dict) -> np.ndarray:
    dtype = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    start, end = entry["data_offsets"]
    count = int(np.prod(shape, dtype=np.int64))
    if not 0 <= start <= end <= len(data) - data_start or end - start != count * dtype.itemsize:
        raise ValueError(f"data_offsets {entry['data_offsets']} do not fit shape {shape}")
    array = np.frombuffer(data, dtype, count, data_start + start).reshape(shape)
    return from_bf16(array) if dtype == BF16 else array
