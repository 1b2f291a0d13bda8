"""Other people's pickles, read without executing anything in them.

The file's instructions are scanned before one of them runs; every name they ask for is either
one of the few below, each answered by an inert stand-in of ours, or refused by name. Source code
that a file carries is dropped unread. What comes out is tensors, plain containers and `Record`s.

Formats: a raw pickle (as NVIDIA's and the paper's training code write networks), torch's zip
format and its older stream format (state dicts).
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

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
_REFUSED_OPCODES = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
# Classes whose instances become `Record`s: layers, and the classes of the reference's own modules.
_RECORD_MODULES = re.compile(
    r"torch\.nn\.(modules\.\w+|parameter)|(training|edmlx|EDMLX|models?|networks?|torch_utils)(\.\w+)*|_imported_module_[0-9a-f]+"
)


@dataclass
class Record:
    """An object of the file: the name of its class and its attributes. It has no behaviour."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Storage:
    """Raw bytes with a type."""

    dtype: torch.dtype
    data: bytes | memoryview


class _Refused(Exception):
    """What the file asked for, in words."""


def read_pickle(path: Path) -> Any:
    """The content of `path`.

    Raises RunError that names what was refused, when the file asks for anything but tensors and
    plain containers, is damaged, or claims sizes that it does not hold.
    """
    try:
        with open(path, "rb") as f:
            magic = f.read(4)
            f.seek(0)
            if magic == b"PK\x03\x04":
                return _read_zip(path)
            return _read_stream(f, path.stat().st_size)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except _Refused as e:
        raise RunError(f"{path}: refused, {e}; nothing in it was executed") from None
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, TypeError, IndexError, KeyError,
        AttributeError, OverflowError, MemoryError, RecursionError, UnicodeDecodeError, RuntimeError, OSError,
    ) as e:  # fmt: skip
        raise RunError(f"{path}: not a readable weights file ({type(e).__name__}: {e!s:.120})") from None


def _scan(data: bytes) -> int:
    """Walk the instructions of the pickle at the start of `data` without running them; returns its length.

    Refuses extension codes and memo numbers beyond the number of instructions, by which a few
    bytes could ask for gigabytes.
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
    known = (module, name) in _NAMES or name in _NAMES_ANYWHERE
    typed = module == "torch" and (name in _DTYPES or name in _DTYPE_NAMES)
    if not (known or typed or (_RECORD_MODULES.fullmatch(module) and name.isidentifier())):
        raise _Refused(f"it asks for {module}.{name}")


class _Unpickler(pickle.Unpickler):
    """Only our stand-ins are ever called; storages come from `load_storage`."""

    def __init__(self, data: bytes, load_storage: Callable[[Any], _Storage]) -> None:
        super().__init__(BytesIO(data), encoding="latin1")
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        _check_name(module, name)
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        if module == "torch" and name in _DTYPE_NAMES:
            return getattr(torch, name)
        if (module, name) in _NAMES or name in _NAMES_ANYWHERE:
            return _NAMES.get((module, name)) or _NAMES_ANYWHERE[name]
        return type(name, (_Shell,), {"__slots__": ()})

    def persistent_load(self, pid: Any) -> _Storage:
        return self._load_storage(pid)


def _load(data: bytes, load_storage: Callable[[Any], _Storage]) -> Any:
    _scan(data)
    return _plain(_Unpickler(data, load_storage).load())


def _no_storage(pid: Any) -> _Storage:
    raise _Refused(f"it refers to outside data {pid!r:.60}")


# --- stand-ins -------------------------------------------------------------------------------


class _Shell:
    """Instance of a class that is not ours: holds attributes, does nothing. Made into a Record afterwards."""

    __slots__ = ("held",)

    def __new__(cls, *arguments: Any) -> _Shell:
        if arguments:
            raise _Refused(f"it calls {cls.__name__}()")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, Mapping):
            raise _Refused(f"the state of {type(self).__name__} is a {type(state).__name__}, expected a dict")
        self.held = dict(state)


class _StorageType:
    """Marker of a torch storage class."""

    def __init__(self, name: str) -> None:
        self.dtype = _DTYPES[name]


def _persistent(meta: Any) -> Record:
    """NVIDIA's persistent object: class name and state are kept, the source code in it is not looked at."""
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("state"), dict):
        raise _Refused("a persistent object is not of the form type, version, module_src, class_name, state")
    return Record(str(meta.get("class_name")), dict(meta["state"]))


def _tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_ignored: Any
) -> Tensor:  # torch._utils._rebuild_tensor_v2: requires_grad, hooks and metadata do not matter here
    if not isinstance(storage, _Storage):
        raise _Refused("a tensor without storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise _Refused(f"a tensor of size {size!s:.60}, stride {stride!s:.60}")
    available = len(storage.data) // storage.dtype.itemsize
    empty = any(n == 0 for n in size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if not empty else 0
    if not empty and (last >= available or int(np.prod(size, dtype=object)) > available):
        raise _Refused(f"a tensor of size {list(size)} in a storage of {available} numbers")
    flat = torch.frombuffer(bytearray(storage.data) or bytearray(1), dtype=torch.uint8)
    flat = flat[: available * storage.dtype.itemsize].view(storage.dtype)
    return flat.as_strided(size, stride, offset).clone() if not empty else torch.zeros(size, dtype=storage.dtype)


def _parameter(data: Any, *_ignored: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _Refused("a parameter that is not a tensor")
    return data


def _storage_from_bytes(data: Any) -> _Storage:
    """torch.storage._load_from_bytes: a storage inside a raw pickle, in torch's stream format."""
    if not isinstance(data, bytes):
        raise _Refused("a storage that is not bytes")
    found = _read_stream(BytesIO(data), len(data))
    if not isinstance(found, _Storage):
        raise _Refused(f"a storage that holds a {type(found).__name__}")
    return found


def _new_object(cls: Any, base: Any, state: Any) -> Any:
    """copyreg._reconstructor, as protocols 0 and 1 use it for plain objects."""
    if not (isinstance(cls, type) and issubclass(cls, (_Shell, dict))):
        raise _Refused(f"it builds a {cls!r:.60}")
    if issubclass(cls, dict):
        return dict(state or {})
    return cls()


def _set(items: Any = ()) -> set[Any]:
    return set(items)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(items)


def _device(*arguments: Any) -> str:
    return ":".join(map(str, arguments))


class _EasyDict(dict):  # type: ignore[type-arg]
    """dnnlib's dictionary: a dictionary."""

    def __setstate__(self, state: Any) -> None:
        self.update(state or {})


_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("torch", "device"): _device,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): _ordered,
    ("copyreg", "_reconstructor"): _new_object,
    ("copy_reg", "_reconstructor"): _new_object,
    ("builtins", "object"): object,
    ("__builtin__", "object"): object,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
}
# Helpers that projects copy to places of their own; the answer is ours wherever they lie.
_NAMES_ANYWHERE: dict[str, Any] = {"EasyDict": _EasyDict, "_reconstruct_persistent_obj": _persistent}


def _plain(value: Any) -> Any:
    """Shells as Records, and dictionaries as plain ones, all the way down (without recursion limits in mind:
    networks nest a few dozen levels, a file that nests thousands ends in RecursionError, which is refused)."""
    if isinstance(value, _Shell):
        return Record(type(value).__name__, _plain(getattr(value, "held", {})))
    if isinstance(value, Record):
        return Record(value.class_name, _plain(value.state))
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value


# --- torch's containers ----------------------------------------------------------------------


def _storage_key(pid: Any) -> tuple[torch.dtype, str, int]:
    """Type, key and number of elements of ("storage", type, key, location, count, …)."""
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
        raise _Refused(f"it refers to outside data {pid!r:.60}")
    if not isinstance(pid[4], int) or pid[4] < 0:
        raise _Refused(f"a storage of {pid[4]!r:.40} numbers")
    return pid[1].dtype, str(pid[2]), pid[4]


def _read_zip(path: Path) -> Any:
    """torch.save since 1.6: an archive of data.pkl and stored (never compressed) storages."""
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: e for e in archive.infolist()}
        packed = [name for name, e in entries.items() if e.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise _Refused(f"its entry {packed[0]} is compressed, which torch never writes")
        if sum(e.file_size for e in entries.values()) > path.stat().st_size:
            raise _Refused("its entries claim to be larger than the file")
        (main,) = [name for name in entries if name.endswith("data.pkl")] or [""]
        if not main:
            raise _Refused("no data.pkl in it")
        prefix = main.removesuffix("data.pkl")

        def load_storage(pid: Any) -> _Storage:
            dtype, key, count = _storage_key(pid)
            data = archive.read(f"{prefix}data/{key}")
            if len(data) != count * dtype.itemsize:
                raise _Refused(f"storage {key} holds {len(data)} bytes, {count * dtype.itemsize} were announced")
            return _Storage(dtype, data)

        return _load(archive.read(main), load_storage)


def _read_stream(stream: BinaryIO, size: int) -> Any:
    """A raw pickle, or torch's stream format: magic, protocol, system, content, keys, raw storages."""
    data = stream.read(size)
    first = _scan(data)
    content = _load(data[:first], _no_storage)
    if content != _TORCH_MAGIC:
        return content
    at = first
    for expected in (_TORCH_PROTOCOL, None):  # protocol number, then facts about the machine that wrote it
        length = _scan(data[at:])
        if expected is not None and _load(data[at : at + length], _no_storage) != expected:
            raise _Refused("an unknown version of torch's stream format")
        at += length
    content = data[at : at + _scan(data[at:])]
    keys_at = at + len(content)
    keys = data[keys_at : keys_at + _scan(data[keys_at:])]
    raw = _raw_storages(_load(keys, _no_storage), memoryview(data)[keys_at + len(keys) :], content)
    return _load(content, raw)


def _raw_storages(keys: Any, data: memoryview, content: bytes) -> Callable[[Any], _Storage]:
    """Storages that follow a stream's pickles: for each key a count (8 bytes), then the numbers."""
    types: dict[str, tuple[torch.dtype, int]] = {}

    def note(pid: Any) -> _Storage:
        dtype, key, count = _storage_key(pid)
        if count * dtype.itemsize > len(data):
            raise _Refused(f"storage {key} of {count} numbers in a file of {len(data)} bytes")
        types[key] = (dtype, count)
        return _Storage(dtype, bytes(count * dtype.itemsize))

    _load(content, note)  # a first pass tells each storage's type, without which its length is unknown
    found: dict[str, _Storage] = {}
    at = 0
    for key in map(str, keys):
        if key not in types:
            raise _Refused(f"storage {key} is announced and never used")
        dtype, expected = types[key]
        count = int.from_bytes(data[at : at + 8], "little")
        end = at + 8 + count * dtype.itemsize
        if count != expected or end > len(data):
            raise _Refused(f"storage {key} holds {count} numbers, {expected} were announced")
        found[key] = _Storage(dtype, data[at + 8 : end])
        at = end
    return lambda pid: found[_storage_key(pid)[1]]
