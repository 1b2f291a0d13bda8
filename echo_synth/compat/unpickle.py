"""Other people's pickles, read without executing anything in them.

The file's instructions are scanned before one of them runs; every name they ask for is either
one of the few below, each answered by an inert stand-in of ours, or refused by name. Source code
that a file carries is dropped unread. What comes out is tensors, plain containers and `Record`s.

Formats: a raw pickle (as NVIDIA's and the paper's training code write networks), torch's zip
format and its older stream format (state dicts).
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from echo_synth.errors import RunError

_TORCH_MAGIC, _TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_DTYPE_NAMES = {str(d).removeprefix("torch.") for d in _DTYPES.values()}
_MAX_DIMENSIONS = 16
_CLONE_FACTOR = 4  # how much larger than their file tensors may become
_NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_REFUSED_OPCODES = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
# Classes whose instances become `Record`s: layers, and the classes of the reference's own modules.
_RECORD_MODULES = re.compile(
    r"torch\.nn(\.\w+)*|(training|edmlx|EDMLX|models?|networks?|torch_utils)(\.\w+)*|_imported_module_[0-9a-f]+"
)


@dataclass
class Record:
    """An object of the file: the name of its class and its attributes. It has no behaviour."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


class _Refused(Exception):
    """What the file asked for, in words."""


def read_pickle(path: Path) -> Any:
    """The content of `path`.

    Raises RunError that names what was refused, when the file asks for anything but tensors and
    plain containers, is damaged, or claims sizes that it does not hold.
    """
    try:
        with open(path, "rb") as f:
            size = path.stat().st_size
            magic = f.read(4)
            f.seek(0)
            reader = _Reader(budget=_CLONE_FACTOR * size + (1 << 20))
            return _read_zip(path, reader) if magic == b"PK\x03\x04" else _read_stream(f.read(), reader)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except _Refused as e:
        raise RunError(f"{path}: refused, {e}; nothing in it was executed") from None
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, TypeError, IndexError, KeyError,
        AttributeError, OverflowError, MemoryError, RecursionError, UnicodeDecodeError, RuntimeError, OSError,
        AssertionError, NotImplementedError, struct.error,
    ) as e:  # fmt: skip
        raise RunError(f"{path}: not a readable weights file ({type(e).__name__}: {e!s:.120})") from None


def _brief(value: Any) -> str:
    """A few characters of a value; never the whole repr, which a small file can make enormous."""
    return repr(value)[:60] if isinstance(value, (str, int, float, bytes)) else f"a {type(value).__name__}"


def _scan(data: bytes) -> int:
    """Walk the instructions of the pickle at the start of `data` without running them; returns its length.

    Refuses extension codes, memo numbers beyond the number of instructions, by which a few bytes
    could ask for gigabytes, and every name that is not answered here.
    """
    end = 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data), start=1):
        if opcode.name in _REFUSED_OPCODES:
            raise _Refused(f"it uses the pickle instruction {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise _Refused(f"its memo number {argument} is out of order")
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            _check_name(module, name)
        end = position or 0
    return end + 1


def _check_name(module: str, name: str) -> None:
    known = (module, name) in _CALLS or name in _CALLS_ANYWHERE
    typed = module == "torch" and (name in _DTYPES or name in _DTYPE_NAMES)
    if not (known or typed or (_RECORD_MODULES.fullmatch(module) and name.isidentifier())):
        raise _Refused(f"it asks for {_printable(module)}.{_printable(name)}")


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:60])


# --- stand-ins: what names become, and the only things that instructions may touch ------------


@dataclass(frozen=True)
class _Call:
    """A function of ours that answers a name; called with the reader and the file's arguments."""

    answer: Callable[..., Any]


@dataclass(frozen=True)
class _Class:
    """A class that is not ours: its instances are shells."""

    name: str


@dataclass(frozen=True)
class _StorageType:
    """A torch storage class."""

    dtype: torch.dtype


@dataclass(frozen=True)
class _NumpyType:
    """A numpy dtype of plain numbers, e.g. f8."""

    code: str


class _Shell:
    """Instance of a class that is not ours: holds attributes, does nothing. Made into a Record afterwards."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[str, Any] = {}


class _Storage:
    """Numbers of one type, (count,); tensors are cut out of it."""

    def __init__(self, dtype: torch.dtype, data: bytes) -> None:
        self.count = len(data) // dtype.itemsize
        raw = torch.frombuffer(bytearray(data) or bytearray(8), dtype=torch.uint8)
        self.flat = raw[: self.count * dtype.itemsize].view(dtype)


@dataclass
class _Reader:
    """State of one file's reading.

    Attributes:
        budget: bytes that tensors may still take; each is a copy, and a file can name one storage often.
        survey: tensors are not built, only their storages' types noted.
        inner: inside a storage that is itself a stream; such streams do not nest.
    """

    budget: int
    survey: bool = False
    inner: bool = False


def _tensor(reader: _Reader, storage: Any, offset: Any, size: Any, stride: Any, *_ignored: Any) -> Tensor:
    # torch._utils._rebuild_tensor_v2: requires_grad, hooks and metadata do not matter here.
    if reader.survey:
        return torch.empty(0)
    if not isinstance(storage, _Storage):
        raise _Refused("a tensor without storage")
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= _MAX_DIMENSIONS):
        raise _Refused("a tensor whose size and stride do not fit together")
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in (offset, *size, *stride)):
        raise _Refused("a tensor whose size or stride is not a number")
    if 0 in size:
        return torch.zeros(size, dtype=storage.flat.dtype)
    count, last = math.prod(size), offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= storage.count or count > storage.count:
        raise _Refused(f"a tensor of size {list(size)} in a storage of {storage.count} numbers")
    reader.budget -= count * storage.flat.element_size()
    if reader.budget < 0:
        raise _Refused("its tensors would take many times the file's size")
    return storage.flat.as_strided(size, stride, offset).clone()


def _parameter(reader: _Reader, data: Any, *_ignored: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _Refused("a parameter that is not a tensor")
    return data


def _storage_from_bytes(reader: _Reader, data: Any) -> Any:
    """torch.storage._load_from_bytes: a storage inside a raw pickle, in torch's stream format."""
    if not isinstance(data, bytes) or reader.inner:
        raise _Refused("a storage that is not plain bytes")
    found = _read_stream(data, _Reader(reader.budget, inner=True))
    if not isinstance(found, _Storage):
        raise _Refused(f"a storage that holds {_brief(found)}")
    return found


def _persistent(reader: _Reader, meta: Any) -> _Shell:
    """NVIDIA's persistent object: class name and state are kept, the source code in it is not looked at."""
    good = isinstance(meta, dict) and meta.get("type") == "class" and isinstance(meta.get("class_name"), str)
    if not good or not isinstance(meta.get("state"), dict):
        raise _Refused("a persistent object is not of the form type, version, module_src, class_name, state")
    shell = _Shell(meta["class_name"])
    shell.held = dict(meta["state"])
    return shell


def _dictionary(reader: _Reader, items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items()) if isinstance(items, dict) else [tuple(p) for p in items]
    return {_key(k): v for k, v in pairs}


def _new_object(reader: _Reader, cls: Any, base: Any, state: Any) -> Any:
    """copyreg._reconstructor, as protocols 0 and 1 use it."""
    if isinstance(cls, _Class):
        return _Shell(cls.name)
    if cls == _CALLS_ANYWHERE["EasyDict"]:
        return _dictionary(reader, state or ())
    raise _Refused(f"it builds {_brief(cls)}")


def _numpy_type(reader: _Reader, code: Any, *_ignored: Any) -> _NumpyType:
    if code not in _NUMPY_CODES:
        raise _Refused(f"it asks for numpy numbers of type {_brief(code)}")
    return _NumpyType(code)


def _numpy_scalar(reader: _Reader, kind: Any, data: Any) -> int | float | bool:
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes) or len(data) != np.dtype(kind.code).itemsize:
        raise _Refused("a numpy number whose bytes do not fit its type")
    value: int | float | bool = np.frombuffer(data, np.dtype(kind.code).newbyteorder("<"))[0].item()
    return value


def _encoded(reader: _Reader, text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("it calls _codecs.encode with something else than latin1 text")
    return text.encode("latin1")


def _device(reader: _Reader, *arguments: Any) -> str:
    return ":".join(_brief(a).strip("'") for a in arguments[:2])


def _key(value: Any) -> Any:
    """A dictionary key or set member: short plain values only, whose hash costs nothing."""
    if value is None or isinstance(value, (str, bool, float)) or (type(value) is int and abs(value) < 1 << 61):
        return value
    raise _Refused(f"a dictionary key that is {_brief(value)}")


_CALLS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    ("torch.storage", "_load_from_bytes"): _Call(_storage_from_bytes),
    ("torch", "device"): _Call(_device),
    ("torch", "Size"): _Call(lambda reader, items=(): tuple(items)),
    ("collections", "OrderedDict"): _Call(_dictionary),
    ("copyreg", "_reconstructor"): _Call(_new_object),
    ("copy_reg", "_reconstructor"): _Call(_new_object),
    ("builtins", "object"): "object",
    ("__builtin__", "object"): "object",
    ("builtins", "dict"): "dict",
    ("__builtin__", "dict"): "dict",
    ("builtins", "set"): _Call(lambda reader, items=(): {_key(i) for i in items}),
    ("__builtin__", "set"): _Call(lambda reader, items=(): {_key(i) for i in items}),
    ("numpy", "dtype"): _Call(_numpy_type),
    ("numpy.core.multiarray", "scalar"): _Call(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): _Call(_numpy_scalar),
    ("_codecs", "encode"): _Call(_encoded),
}
# Helpers that projects copy to places of their own; the answer is ours wherever they lie.
_CALLS_ANYWHERE: dict[str, Any] = {"EasyDict": _Call(_dictionary), "_reconstruct_persistent_obj": _Call(_persistent)}


# The pure Python unpickler: each instruction that could touch an object is replaced by one that
# touches only stand-ins, dictionaries, lists and sets.
_Base: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_Base):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(_Base.dispatch)

    def __init__(self, data: bytes, reader: _Reader, load_storage: Callable[[Any], Any]) -> None:
        super().__init__(BytesIO(data), encoding="latin1")
        self._reader, self._load_storage = reader, load_storage

    def find_class(self, module: str, name: str) -> Any:
        _check_name(module, name)
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        if module == "torch" and name in _DTYPE_NAMES:
            return getattr(torch, name)
        return _CALLS.get((module, name)) or _CALLS_ANYWHERE.get(name) or _Class(name)

    def persistent_load(self, pid: Any) -> Any:
        return self._load_storage(pid)

    def _answer(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, _Class) and not arguments:
            return _Shell(function.name)
        if isinstance(function, _Class):
            raise _Refused(f"it calls {function.name}()")
        if not isinstance(function, _Call) or not isinstance(arguments, tuple):
            raise _Refused(f"it calls {_brief(function)}")
        return function.answer(self._reader, *arguments)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._answer(self.stack[-1], arguments)

    def _new_with_keywords(self) -> None:
        keywords = self.stack.pop()
        if keywords:
            raise _Refused("it passes keyword arguments")
        self._reduce()

    def _refuse(self) -> None:
        raise _Refused("it uses an instruction that makes objects of protocol 0")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Shell) and isinstance(state, dict):
            target.held = dict(state)
        elif isinstance(target, _NumpyType) and isinstance(state, tuple) and state[1:2] in ((), ("<",), ("|",), ("=",)):
            pass
        elif not isinstance(target, dict):  # what an OrderedDict or EasyDict carries besides its items is left out
            raise _Refused(f"it sets the state of {_brief(target)}")

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise _Refused(f"it sets items of {_brief(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self) -> None:
        self._fill(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def _additems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if not isinstance(target, set):
            raise _Refused(f"it adds members to {_brief(target)}")
        target.update(_key(i) for i in items)

    def _frozenset(self) -> None:
        self.append(frozenset(_key(i) for i in self.pop_mark()))

    for _opcode, _method in (
        (pickle.REDUCE, _reduce), (pickle.NEWOBJ, _reduce), (pickle.NEWOBJ_EX, _new_with_keywords),
        (pickle.INST, _refuse), (pickle.OBJ, _refuse), (pickle.BUILD, _build), (pickle.SETITEM, _setitem),
        (pickle.SETITEMS, _setitems), (pickle.DICT, _dict), (pickle.ADDITEMS, _additems), (pickle.FROZENSET, _frozenset),
    ):  # fmt: skip
        dispatch[_opcode[0]] = _method


def _load(data: bytes, reader: _Reader, load_storage: Callable[[Any], Any]) -> Any:
    _scan(data)
    return _plain(_Unpickler(data, reader, load_storage).load(), {})


def _no_storage(pid: Any) -> Any:
    raise _Refused(f"it refers to outside data {_brief(pid)}")


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Shells as Records and stand-ins as text, all the way down; what is shared in the file stays shared."""
    if id(value) in seen:
        return seen[id(value)]
    result = value
    if isinstance(value, _Shell):
        result = Record(value.name, _plain(value.held, seen))
    elif isinstance(value, dict):
        result = {k: _plain(v, seen) for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)([_plain(v, seen) for v in value])
    elif isinstance(value, (_Class, _Call, _StorageType, _NumpyType)):
        result = f"<{type(value).__name__.strip('_').lower()}>"
    seen[id(value)] = result
    return result


# --- torch's containers ----------------------------------------------------------------------


def _storage_key(pid: Any) -> tuple[torch.dtype, str, int]:
    """Type, key and number of elements of ("storage", type, key, location, count, …)."""
    good = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)
    if not good or not isinstance(pid[2], str):
        raise _Refused(f"it refers to outside data {_brief(pid)}")
    if type(pid[4]) is not int or pid[4] < 0:
        raise _Refused(f"a storage of {_brief(pid[4])} numbers")
    return pid[1].dtype, pid[2], pid[4]


def _read_zip(path: Path, reader: _Reader) -> Any:
    """torch.save since 1.6: an archive of data.pkl and stored (never compressed) storages."""
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: e for e in archive.infolist()}
        packed = [name for name, e in entries.items() if e.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise _Refused(f"its entry {_printable(packed[0])} is compressed, which torch never writes")
        if sum(e.file_size for e in archive.infolist()) > path.stat().st_size:
            raise _Refused("its entries claim to be larger than the file")
        mains = [name for name in entries if name.endswith("data.pkl")]
        if len(mains) != 1:
            raise _Refused(f"{len(mains)} entries named data.pkl in it, expected one")
        prefix = mains[0].removesuffix("data.pkl")
        kept: dict[str, _Storage] = {}

        def load_storage(pid: Any) -> _Storage:
            dtype, key, count = _storage_key(pid)
            if key not in kept:
                data = archive.read(f"{prefix}data/{key}")
                if len(data) != count * dtype.itemsize:
                    raise _Refused(
                        f"storage {_printable(key)} holds {len(data)} bytes, {count * dtype.itemsize} were announced"
                    )
                kept[key] = _Storage(dtype, data)
            return _same(kept[key], dtype, count)

        return _load(archive.read(mains[0]), reader, load_storage)


def _same(storage: _Storage, dtype: torch.dtype, count: int) -> _Storage:
    if storage.flat.dtype != dtype or storage.count != count:
        raise _Refused("a storage that is used as two types or sizes")
    return storage


def _read_stream(data: bytes, reader: _Reader) -> Any:
    """A raw pickle, or torch's stream format: magic, protocol, system, content, keys, raw storages."""
    first = _scan(data)
    content = _load(data[:first], reader, _no_storage)
    if not (isinstance(content, int) and content == _TORCH_MAGIC):
        return content
    at = first
    for expected in (_TORCH_PROTOCOL, None):  # protocol number, then facts about the machine that wrote it
        length = _scan(data[at:])
        if expected is not None and _load(data[at : at + length], reader, _no_storage) != expected:
            raise _Refused("an unknown version of torch's stream format")
        at += length
    body = data[at : at + _scan(data[at:])]
    at += len(body)
    keys = data[at : at + _scan(data[at:])]
    raw = memoryview(data)[at + len(keys) :]
    storages = _raw_storages(_load(keys, reader, _no_storage), raw, body)

    def load_storage(pid: Any) -> _Storage:
        dtype, key, count = _storage_key(pid)
        return _same(storages[key], dtype, count)

    return _load(body, reader, load_storage)


def _raw_storages(keys: Any, data: memoryview, body: bytes) -> dict[str, _Storage]:
    """Storages that follow a stream's pickles: for each key a count (8 bytes), then the numbers."""
    types: dict[str, tuple[torch.dtype, int]] = {}

    def note(pid: Any) -> str:
        dtype, key, count = _storage_key(pid)
        types[key] = (dtype, count)
        return "storage"

    # A first pass tells each storage's type, without which its length is unknown.
    _load(body, _Reader(0, survey=True, inner=True), note)
    found: dict[str, _Storage] = {}
    at = 0
    for key in keys if isinstance(keys, list) else []:
        if key not in types:
            raise _Refused("a storage is announced and never used")
        dtype, expected = types[key]
        count = int.from_bytes(data[at : at + 8], "little")
        end = at + 8 + count * dtype.itemsize
        if count != expected or end > len(data):
            raise _Refused(f"storage {_printable(key)} holds {count} numbers, {expected} were announced")
        found[key] = _Storage(dtype, bytes(data[at + 8 : end]))
        at = end
    return found
