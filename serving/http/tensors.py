"""Tensors of the Open Inference Protocol: its JSON forms, and the binary tensor data extension.

Source: Triton's `extension_binary_data.md`: the JSON comes first, as long as the header
`inference-header-content-length` says; then the tensors, little-endian, row by row. An element of BYTES is its
length as a 4-byte unsigned integer and its bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from serving.http.errors import HttpError

Parameters = dict[str, str | float | bool | int | None]
_LENGTH = struct.Struct("<I")
_NUMPY = {"FP32": "<f4", "FP64": "<f8", "BOOL": "?"}


class InputTensor(msgspec.Struct):
    """One input of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: Annotated[
        list[str | list[str]] | None, Meta(description="Flat, or row by row; left out when it is binary.")
    ] = None
    parameters: Parameters = {}


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """One output of an answer."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


def split_body(body: bytes, header: bytes | None) -> tuple[bytes, bytes]:
    """The JSON and the binary part of a body; HttpError 400 when the header's length is none of it."""
    if header is None:
        return body, b""
    if not header.isdigit() or len(header) > 18 or (length := int(header)) > len(body):
        raise _wrong(f"inference-header-content-length is '{header.decode('latin-1')}', the body has {len(body)} bytes")
    return body[:length], body[length:]


def read_strings(tensors: Sequence[InputTensor], binary: bytes) -> dict[str, list[str]]:
    """The strings of each BYTES tensor by name; HttpError 400 when shapes, sizes and data do not agree."""
    values: dict[str, list[str]] = {}
    offset = 0
    for tensor in tensors:
        if tensor.datatype != "BYTES":
            raise _wrong(f"input '{tensor.name}' has the datatype {tensor.datatype}; this model reads text as BYTES")
        size = tensor.parameters.get("binary_data_size")
        if size is not None:
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - offset:
                raise _wrong(f"input '{tensor.name}' has the binary_data_size {size}; {len(binary) - offset} are left")
            found = _read_binary(tensor.name, binary[offset : offset + size])
            offset += size
        else:
            found = _flatten(tensor)
        values[tensor.name] = found
        _check_shape(tensor, len(found))
    if offset != len(binary):
        raise _wrong(f"{len(binary) - offset} bytes of binary data belong to no input")
    return values


def write_tensor(name: str, datatype: str, values: NDArray[Any] | list[str], is_binary: bool) -> tuple[Any, bytes]:
    """An output in JSON, or its description and its binary data.

    Args:
        name: of the output.
        datatype: BYTES for a list of strings; FP32, FP64 or BOOL for an array.
        values: [rows] or [rows, columns].
        is_binary: whether the caller wants bytes.
    """
    shape = [len(values)] if isinstance(values, list) else list(values.shape)
    if not is_binary:
        data = values if isinstance(values, list) else values.ravel().tolist()
        return OutputTensor(name, datatype, shape, data), b""
    if isinstance(values, list):
        encoded = [value.encode() for value in values]
        raw = b"".join(_LENGTH.pack(len(value)) + value for value in encoded)
    else:
        raw = np.ascontiguousarray(values, dtype=_NUMPY[datatype]).tobytes()
    return OutputTensor(name, datatype, shape, None, {"binary_data_size": len(raw)}), raw


def _read_binary(name: str, raw: bytes) -> list[str]:
    values, offset = [], 0
    while offset < len(raw):
        if offset + _LENGTH.size > len(raw):
            raise _wrong(f"the binary data of input '{name}' ends within an element's length")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if offset + length > len(raw):
            raise _wrong(f"the binary data of input '{name}' ends within an element")
        values.append(raw[offset : offset + length].decode("utf-8"))
        offset += length
    return values


def _flatten(tensor: InputTensor) -> list[str]:
    if tensor.data is None:
        raise _wrong(f"input '{tensor.name}' has neither data nor a binary_data_size")
    rows = [[row] if isinstance(row, str) else row for row in tensor.data]
    return [value for row in rows for value in row]


def _check_shape(tensor: InputTensor, number: int) -> None:
    shape = tensor.shape
    is_column = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not is_column or min(shape) < 1:
        raise _wrong(f"input '{tensor.name}' has the shape {shape}; send [texts] or [texts, 1]")
    if math.prod(shape) != number:
        raise _wrong(f"input '{tensor.name}' has the shape {shape}, but {number} element(s)")


def _wrong(message: str) -> HttpError:
    return HttpError(400, "invalid_request", message)
