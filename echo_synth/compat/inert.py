"""What the names in a foreign pickle become: inert stand-ins of ours, or a refusal by name.

Instructions of the file may touch nothing else. See `unpickle` for the instructions and
`weights_file` for the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPE_NAMES = {str(d).removeprefix("torch.") for d in _DTYPES.values()}
_MAX_DIMENSIONS = 16
_NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
# Classes whose instances become `Record`s: layers, and the classes of the reference's own modules.
_RECORD_MODULES = re.compile(
    r"torch\.nn(\.\w+)*|(training|edmlx|EDMLX|models?|networks?|torch_utils)(\.\w+)*|_imported_module_[0-9a-f]+"
)


@dataclass
class Record:
    """An object of the file: the name of its class and its attributes. It has no behaviour."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """What the file asked for, in words."""


_OVERHEAD = 64  # bytes of a small object, by which members of containers are counted
_TENSOR = 1024  # bytes of a tensor besides its numbers


def brief(value: Any) -> str:
    """A few characters of a value; never the whole repr, which a small file can make enormous."""
    return repr(value)[:60] if isinstance(value, (str, int, float, bytes)) else f"a {type(value).__name__}"


def check_name(module: str, name: str) -> None:
    """Raises Refused for every name that has no stand-in."""
    known = (module, name) in _CALLS or name in _CALLS_ANYWHERE
    typed = module == "torch" and (name in _DTYPES or name in _DTYPE_NAMES)
    if not (known or typed or (_RECORD_MODULES.fullmatch(module) and name.isidentifier())):
        raise Refused(f"it asks for {printable(module)}.{printable(name)}")


def printable(name: str) -> str:
    """A name of the file, fit for a message."""
    return "".join(c if c.isprintable() else "?" for c in name[:60])


@dataclass(frozen=True)
class Call:
    """A function of ours that answers a name; called with the reader and the file's arguments."""

    answer: Callable[..., Any]


@dataclass(frozen=True)
class Class:
    """A class that is not ours: its instances are shells."""

    name: str


@dataclass(frozen=True)
class StorageType:
    """A torch storage class."""

    dtype: torch.dtype


@dataclass(frozen=True)
class NumpyType:
    """A numpy dtype of plain numbers, e.g. f8."""

    code: str


class Shell:
    """Instance of a class that is not ours: holds attributes, does nothing. Made into a Record afterwards."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[str, Any] = {}


class Storage:
    """Numbers of one type, (count,); tensors are cut out of it."""

    def __init__(self, dtype: torch.dtype, data: bytes) -> None:
        self.count = len(data) // dtype.itemsize
        raw = torch.frombuffer(bytearray(data) or bytearray(8), dtype=torch.uint8)
        self.flat = raw[: self.count * dtype.itemsize].view(dtype)


@dataclass
class Reader:
    """State of one file's reading.

    Attributes:
        budget: bytes that may still be made by calls; each makes a copy, and a file can name one
            storage, text or list often.
        survey: tensors are not built, only their storages' types noted.
        read_nested: reads a storage that is a stream of its own; None inside one, they do not nest.
    """

    budget: int
    survey: bool = False
    read_nested: Callable[[bytes, Reader], Any] | None = None

    def charge(self, size: int) -> None:
        """Take `size` bytes off the budget. Raises Refused where it is spent."""
        self.budget -= size
        if self.budget < 0:
            raise Refused("its tensors would take many times the file's size")

    def charge_copies(self, *values: Any) -> None:
        """`charge` what a copy of each of `values`, one level deep, takes."""
        for value in values:
            if isinstance(value, str | bytes | bytearray):
                self.charge(_OVERHEAD + len(value))
            elif isinstance(value, list | tuple | dict | set | frozenset):
                self.charge(_OVERHEAD * (1 + len(value)))


def _tensor(reader: Reader, storage: Any, offset: Any, size: Any, stride: Any, *_ignored: Any) -> Tensor:
    # torch._utils._rebuild_tensor_v2: requires_grad, hooks and metadata do not matter here.
    if reader.survey:
        return torch.empty(0)
    if not isinstance(storage, Storage):
        raise Refused("a tensor without storage")
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= _MAX_DIMENSIONS):
        raise Refused("a tensor whose size and stride do not fit together")
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in (offset, *size, *stride)):
        raise Refused("a tensor whose size or stride is not a number")
    reader.charge(_TENSOR)
    if 0 in size:
        return torch.zeros(size, dtype=storage.flat.dtype)
    count, last = math.prod(size), offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= storage.count or count > storage.count:
        raise Refused(f"a tensor of size {list(size)} in a storage of {storage.count} numbers")
    reader.charge(count * storage.flat.element_size())
    return storage.flat.as_strided(size, stride, offset).clone()


def _parameter(reader: Reader, data: Any, *_ignored: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("a parameter that is not a tensor")
    return data


def _storage_from_bytes(reader: Reader, data: Any) -> Any:
    """torch.storage._load_from_bytes: a storage inside a raw pickle, in torch's stream format."""
    if not isinstance(data, bytes) or reader.read_nested is None:
        raise Refused("a storage that is not plain bytes")
    inner = Reader(reader.budget)
    storage = reader.read_nested(data, inner)
    reader.budget = inner.budget
    if not isinstance(storage, Storage):
        raise Refused(f"a storage that holds {brief(storage)}")
    return storage


def _persistent(reader: Reader, meta: Any) -> Shell:
    """NVIDIA's persistent object: class name and state are kept, the source code in it is not looked at."""
    good = isinstance(meta, dict) and meta.get("type") == "class" and isinstance(meta.get("class_name"), str)
    if not good or not isinstance(meta.get("state"), dict):
        raise Refused("a persistent object is not of the form type, version, module_src, class_name, state")
    reader.charge_copies(meta["state"])
    shell = Shell(meta["class_name"])
    shell.held = dict(meta["state"])
    return shell


def _dictionary(reader: Reader, items: Any = ()) -> dict[Any, Any]:
    if isinstance(items, dict):
        return dict(items)
    pairs = _members(items)
    if any(not isinstance(p, list | tuple) or len(p) != 2 for p in pairs):
        raise Refused("it makes a dictionary of something else than pairs")
    return {plain_key(k): v for k, v in pairs}


def _members(items: Any) -> list[Any]:
    """Members of a container, whose copy was counted as such; text would be many small objects."""
    if not isinstance(items, list | tuple | set | frozenset):
        raise Refused(f"it takes the members of {brief(items)}")
    return list(items)


def _new_object(reader: Reader, cls: Any, base: Any, state: Any) -> Any:
    """copyreg._reconstructor, as protocols 0 and 1 use it."""
    if isinstance(cls, Class):
        return Shell(cls.name)
    if cls == _CALLS_ANYWHERE["EasyDict"]:
        return _dictionary(reader, state or ())
    raise Refused(f"it builds {brief(cls)}")


def _numpy_type(reader: Reader, code: Any, *_ignored: Any) -> NumpyType:
    if code not in _NUMPY_CODES:
        raise Refused(f"it asks for numpy numbers of type {brief(code)}")
    return NumpyType(code)


def _numpy_scalar(reader: Reader, kind: Any, data: Any) -> int | float | bool:
    if not isinstance(kind, NumpyType) or not isinstance(data, bytes) or len(data) != np.dtype(kind.code).itemsize:
        raise Refused("a numpy number whose bytes do not fit its type")
    value: int | float | bool = np.frombuffer(data, np.dtype(kind.code).newbyteorder("<"))[0].item()
    return value


def _encoded(reader: Reader, text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("it calls _codecs.encode with something else than latin1 text")
    return text.encode("latin1")


def _device(reader: Reader, *arguments: Any) -> str:
    return ":".join(brief(a).strip("'") for a in arguments[:2])


def stand_in(module: str, name: str) -> Any:
    """What `module`.`name` becomes. Raises Refused for every name that has no stand-in."""
    check_name(module, name)
    if module == "torch" and name in _DTYPES:
        return StorageType(_DTYPES[name])
    if module == "torch" and name in _DTYPE_NAMES:
        return getattr(torch, name)
    return _CALLS.get((module, name)) or _CALLS_ANYWHERE.get(name) or Class(name)


def plain_key(value: Any) -> Any:
    """A dictionary key or set member: short plain values only, whose hash costs nothing and cannot be made to collide."""
    if value is None or isinstance(value, (str, bool, float)) or (type(value) is int and abs(value) < 1 << 31):
        return value
    raise Refused(f"a dictionary key that is {brief(value)}")


_CALLS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): Call(_parameter),
    ("torch.storage", "_load_from_bytes"): Call(_storage_from_bytes),
    ("torch", "device"): Call(_device),
    ("torch", "Size"): Call(lambda reader, items=(): tuple(_members(items))),
    ("collections", "OrderedDict"): Call(_dictionary),
    ("copyreg", "_reconstructor"): Call(_new_object),
    ("copy_reg", "_reconstructor"): Call(_new_object),
    ("builtins", "object"): "object",
    ("__builtin__", "object"): "object",
    ("builtins", "dict"): "dict",
    ("__builtin__", "dict"): "dict",
    ("builtins", "set"): Call(lambda reader, items=(): {plain_key(i) for i in _members(items)}),
    ("__builtin__", "set"): Call(lambda reader, items=(): {plain_key(i) for i in _members(items)}),
    ("numpy", "dtype"): Call(_numpy_type),
    ("numpy.core.multiarray", "scalar"): Call(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): Call(_numpy_scalar),
    ("_codecs", "encode"): Call(_encoded),
}
# Helpers that projects copy to places of their own; the answer is ours wherever they lie.
_CALLS_ANYWHERE: dict[str, Any] = {"EasyDict": Call(_dictionary), "_reconstruct_persistent_obj": Call(_persistent)}
