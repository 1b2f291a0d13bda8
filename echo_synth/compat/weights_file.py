"""Files of weights that others wrote, read without executing anything in them.

Formats: a raw pickle (as NVIDIA's and the paper's training code write networks), torch's zip
format and its older stream format (state dicts).
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from echo_synth.compat.inert import Reader, Refused, Storage, StorageType, brief, printable
from echo_synth.compat.unpickle import load, no_storage, scan
from echo_synth.errors import RunError

_TORCH_MAGIC, _TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# What Python's and torch's own readers raise on files that are cut, changed or made up.
_DAMAGE = (
    zipfile.BadZipFile,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # RecursionError and NotImplementedError are of this kind
    TypeError,
    ValueError,
    struct.error,
)
_CLONE_FACTOR = 4  # how much larger than their file tensors may become
_ALLOWANCE = 16 << 20  # bytes that the content of a small file may take besides
_LARGEST = 8 << 30  # bytes; the paper's largest network has 1.3e9


def read_pickle(path: Path) -> Any:
    """The content of `path`.

    Raises RunError that names what was refused, when the file asks for anything but tensors and
    plain containers, is damaged, or claims sizes that it does not hold.
    """
    try:
        if path.exists() and not path.is_file():
            raise Refused("it is no ordinary file")
        with open(path, "rb") as f:
            size = path.stat().st_size
            if size > _LARGEST:
                raise Refused(f"it has {size} bytes, no network of the paper has more than {_LARGEST}")
            magic = f.read(4)
            f.seek(0)
            reader = Reader(_CLONE_FACTOR * size + _ALLOWANCE, read_nested=_read_stream)
            return _read_zip(path, reader) if magic == b"PK\x03\x04" else _read_stream(f.read(), reader)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except PermissionError:
        raise RunError(f"{path}: no permission to read it") from None
    except Refused as e:
        raise RunError(f"{path}: refused, {e}; nothing in it was executed") from None
    except _DAMAGE as e:
        raise RunError(f"{path}: not a readable weights file ({type(e).__name__}: {e!s:.120})") from None


def _storage_key(pid: Any) -> tuple[torch.dtype, str, int]:
    """Type, key and number of elements of ("storage", type, key, location, count, …)."""
    good = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], StorageType)
    if not good or not isinstance(pid[2], str):
        raise Refused(f"it refers to outside data {brief(pid)}")
    if type(pid[4]) is not int or pid[4] < 0:
        raise Refused(f"a storage of {brief(pid[4])} numbers")
    return pid[1].dtype, pid[2], pid[4]


def _read_zip(path: Path, reader: Reader) -> Any:
    """torch.save since 1.6: an archive of data.pkl and stored (never compressed) storages."""
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: e for e in archive.infolist()}
        packed = [name for name, e in entries.items() if e.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise Refused(f"its entry {printable(packed[0])} is compressed, which torch never writes")
        if sum(e.file_size for e in archive.infolist()) > path.stat().st_size:
            raise Refused("its entries claim to be larger than the file")
        mains = [name for name in entries if name.endswith("data.pkl")]
        if len(mains) != 1:
            raise Refused(f"{len(mains)} entries named data.pkl in it, expected one")
        prefix = mains[0].removesuffix("data.pkl")
        kept: dict[str, Storage] = {}

        def load_storage(pid: Any) -> Storage:
            dtype, key, count = _storage_key(pid)
            if key not in kept:
                data = archive.read(f"{prefix}data/{key}")
                if len(data) != count * dtype.itemsize:
                    raise Refused(
                        f"storage {printable(key)} holds {len(data)} bytes, {count * dtype.itemsize} were announced"
                    )
                kept[key] = Storage(dtype, data)
            return _same(kept[key], dtype, count)

        return load(archive.read(mains[0]), reader, load_storage)


def _same(storage: Storage, dtype: torch.dtype, count: int) -> Storage:
    if storage.flat.dtype != dtype or storage.count != count:
        raise Refused("a storage that is used as two types or sizes")
    return storage


def _read_stream(data: bytes, reader: Reader) -> Any:
    """A raw pickle, or torch's stream format: magic, protocol, system, content, keys, raw storages."""
    first = scan(data)
    content = load(data[:first], reader, no_storage, scanned=True)
    if not (isinstance(content, int) and content == _TORCH_MAGIC):
        return content
    at = first
    for expected in (_TORCH_PROTOCOL, None):  # protocol number, then what kind of machine wrote it
        length = scan(data[at:])
        if expected is not None and load(data[at : at + length], reader, no_storage, scanned=True) != expected:
            raise Refused("an unknown version of torch's stream format")
        at += length
    body = data[at : at + scan(data[at:])]
    at += len(body)
    keys = data[at : at + scan(data[at:])]
    raw = memoryview(data)[at + len(keys) :]
    storages = _raw_storages(load(keys, reader, no_storage, scanned=True), raw, body, reader.budget)

    def load_storage(pid: Any) -> Storage:
        dtype, key, count = _storage_key(pid)
        return _same(storages[key], dtype, count)

    return load(body, reader, load_storage, scanned=True)


def _raw_storages(keys: Any, data: memoryview, body: bytes, budget: int) -> dict[str, Storage]:
    """Storages that follow a stream's pickles: for each key a count (8 bytes), then the numbers."""
    types: dict[str, tuple[torch.dtype, int]] = {}

    def note(pid: Any) -> str:
        dtype, key, count = _storage_key(pid)
        types[key] = (dtype, count)
        return "storage"

    # A first pass tells each storage's type, without which its length is unknown.
    load(body, Reader(budget, survey=True), note, scanned=True)
    storages: dict[str, Storage] = {}
    at = 0
    for key in keys if isinstance(keys, list) else []:
        if key not in types:
            raise Refused("a storage is announced and never used")
        dtype, expected = types[key]
        count = int.from_bytes(data[at : at + 8], "little")
        end = at + 8 + count * dtype.itemsize
        if count != expected or end > len(data):
            raise Refused(f"storage {printable(key)} holds {count} numbers, {expected} were announced")
        storages[key] = Storage(dtype, bytes(data[at + 8 : end]))
        at = end
    return storages
