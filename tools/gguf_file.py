"""Reads GGUF model files: metadata, and tensors dequantised to float32.

Covers versions 2 and 3 and the tensor types F32, F16, Q8_0 and Q4_1. Every length that the file
states is checked against the file's size before it is used, so a truncated or damaged file gives a
GgufError and nothing else.
"""

from __future__ import annotations

import dataclasses
import mmap
import pathlib
import struct
from types import TracebackType
from typing import Any

import numpy as np

_MAGIC = b"GGUF"
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_ARRAY_TYPE = 9
_STRING_TYPE = 8
_MAX_ARRAY_DEPTH = 4

# Metadata scalar types by GGUF type id, as struct formats.
_SCALAR_FORMATS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip

# Blocks of 32 weights. Q8_0: w = scale * q. Q4_1: w = scale * q + minimum, the low nibbles are
# weights 0..15, the high nibbles weights 16..31.
_BLOCK_SIZE = 32
_F32 = np.dtype("<f4")
_F16 = np.dtype("<f2")
_Q8_0 = np.dtype([("scale", "<f2"), ("q", "i1", (_BLOCK_SIZE,))])
_Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("q", "u1", (_BLOCK_SIZE // 2,))])

# Storage by GGML tensor type id: (name, element dtype, weights per element).
_STORAGE = {
    0: ("F32", _F32, 1),
    1: ("F16", _F16, 1),
    3: ("Q4_1", _Q4_1, _BLOCK_SIZE),
    8: ("Q8_0", _Q8_0, _BLOCK_SIZE),
}


class GgufError(Exception):
    """The file is not a GGUF file that this module can read."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. `shape` is in row-major order (GGUF stores it reversed), `offset` counts
    from the start of the file."""

    shape: tuple[int, ...]
    type_name: str
    element: np.dtype
    weights_per_element: int
    offset: int

    @property
    def num_elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count // self.weights_per_element


class GgufFile:
    """An open GGUF file, mapped into memory. Use as a context manager."""

    def __init__(self, path: pathlib.Path) -> None:
        with open(path, "rb") as file:
            try:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise GgufError(f"{path}: empty file") from error
        self._path = path
        try:
            self._parse()
        except BaseException:
            self._data.close()
            raise

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._data.close()

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as a new float32 array."""
        if name not in self.tensors:
            raise GgufError(f"{self._path}: no tensor {name}")
        info = self.tensors[name]
        raw = np.frombuffer(
            self._data, dtype=info.element, count=info.num_elements, offset=info.offset
        )
        return _dequantise(raw).reshape(info.shape)

    def _parse(self) -> None:
        self._position = 0
        if self._take(len(_MAGIC)) != _MAGIC:
            raise GgufError(f"{self._path}: not a GGUF file")
        version = self._scalar("I")
        if version not in (2, 3):
            raise GgufError(f"{self._path}: GGUF version {version} is not supported")
        num_tensors, num_metadata = self._scalar("Q"), self._scalar("Q")

        self.metadata: dict[str, Any] = {}
        for _ in range(num_metadata):
            key = self._string()
            self.metadata[key] = self._value(self._scalar("I"), depth=0)

        stored = [self._tensor_info() for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise GgufError(f"{self._path}: bad general.alignment {alignment!r}")
        data_start = -(-self._position // alignment) * alignment
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in stored:
            placed = dataclasses.replace(info, offset=data_start + info.offset)
            if placed.offset + placed.num_elements * placed.element.itemsize > len(self._data):
                raise GgufError(f"{self._path}: tensor {name} ends past the end of the file")
            self.tensors[name] = placed

    def _tensor_info(self) -> tuple[str, TensorInfo]:
        name = self._string()
        num_dimensions = self._scalar("I")
        if num_dimensions > _MAX_DIMENSIONS:
            raise GgufError(f"{self._path}: tensor {name} has {num_dimensions} dimensions")
        shape = tuple(reversed([self._scalar("Q") for _ in range(num_dimensions)]))
        type_id, offset = self._scalar("I"), self._scalar("Q")
        if type_id not in _STORAGE:
            raise GgufError(f"{self._path}: tensor {name} has unsupported type {type_id}")
        type_name, element, weights_per_element = _STORAGE[type_id]
        if weights_per_element > 1 and (not shape or shape[-1] % weights_per_element != 0):
            raise GgufError(f"{self._path}: rows of {type_name} tensor {name} are not whole blocks")
        return name, TensorInfo(shape, type_name, element, weights_per_element, offset)

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._position:
            raise GgufError(f"{self._path}: truncated at byte {len(self._data)}")
        start = self._position
        self._position += size
        return self._data[start : self._position]

    def _scalar(self, fmt: str) -> Any:
        return struct.unpack("<" + fmt, self._take(struct.calcsize("<" + fmt)))[0]

    def _string(self) -> str:
        try:
            return self._take(self._scalar("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise GgufError(f"{self._path}: a string is not UTF-8: {error}") from error

    def _value(self, type_id: int, depth: int) -> Any:
        if type_id in _SCALAR_FORMATS:
            return self._scalar(_SCALAR_FORMATS[type_id])
        if type_id == _STRING_TYPE:
            return self._string()
        if type_id == _ARRAY_TYPE and depth < _MAX_ARRAY_DEPTH:
            item_type, count = self._scalar("I"), self._scalar("Q")
            # No bound on count is needed: every item takes bytes, and _take stops at the end of the
            # file.
            return [self._value(item_type, depth + 1) for _ in range(count)]
        raise GgufError(f"{self._path}: unsupported metadata type {type_id}")


def _dequantise(raw: np.ndarray) -> np.ndarray:
    if raw.dtype == _Q8_0:
        return raw["scale"].astype(np.float32)[:, None] * raw["q"]
    if raw.dtype == _Q4_1:
        q = np.concatenate([raw["q"] & 0x0F, raw["q"] >> 4], axis=1)
        scale = raw["scale"].astype(np.float32)[:, None]
        return scale * q + raw["minimum"].astype(np.float32)[:, None]
    return raw.astype(np.float32)
