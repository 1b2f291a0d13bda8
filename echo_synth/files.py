"""Writing so that a kill or a full disk leaves either the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from echo_synth.errors import DataError, EchoSynthError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTIAL = ".partial-"
MOST_JSON = 1 << 22  # characters of a JSON file
LISTS_CASES = 1 << 29  # of one that names every case of a dataset; a mixture takes some 255 for each of a million
_CHARACTERS = 16  # of an entry, at least on average: to check millions of them takes minutes and gigabytes
_UMASK = os.umask(0)
os.umask(_UMASK)  # the only way to read it


_swept: set[Path] = set()


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it into place.

    The temporary name ends like the final one, so that writers which choose a format by the
    suffix see the right one. What killed processes left under such a name is removed first.
    Raises DataError when the disk is full or not writable.
    """
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _try_lock(lock)  # says to others that this one is being written
        write(temporary)
        os.chmod(temporary, 0o666 & ~_UMASK)  # some writers make private files
        os.replace(temporary, path)
    except OSError as e:
        raise disk_error(e, path, [path, temporary]) from e
    finally:
        temporary.unlink(missing_ok=True)
        if lock >= 0:
            os.close(lock)


def _try_lock(descriptor: int) -> bool:
    """Whether no living process holds the file; a file system without locks says yes to nobody."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(path: Path) -> None:
    """Remove what killed processes left of `path`, once a process and file; what is being written stays."""
    if path in _swept:
        return
    _swept.add(path)
    for leftover in path.parent.glob(f"{PARTIAL}[0-9]*-{escape(path.name)}"):
        try:
            descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        if _try_lock(descriptor):
            leftover.unlink(missing_ok=True)
        os.close(descriptor)


def disk_error(e: OSError, path: Path, written: Iterable[Path] = ()) -> DataError:
    """An OSError at work on `path` in words that say what to do.

    Args:
        written: files and folders that were being written; an error about any other file is one
            of reading.
    """
    name = Path(str(e.filename)) if e.filename else None
    if name is not None and written and not any(name.absolute().is_relative_to(w.absolute()) for w in written):
        path = name
        if e.errno not in (errno.ENOSPC, errno.EROFS) and os.path.exists(name) and not name.is_dir():
            return _read_error(e, name)
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{path}: no space left on the device; free some and run the same command again")
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        closed = _closed_folder(path)
        if closed is not None:
            return DataError(f"{closed}: no permission to enter this folder; change its rights")
        if os.path.exists(path) and not os.access(path, os.R_OK):
            return _read_error(e, path)
        return DataError(f"{path}: no permission to write; choose another folder or change its rights")
    return DataError(f"{path}: cannot be written ({e.strerror or e})")


def _closed_folder(path: Path) -> Path | None:
    """The folder on the way to `path` that may not be entered, so that nobody can say what is in it."""
    folders = [*reversed(path.parents), path]
    return next((f for f in folders if f.is_dir() and not os.access(f, os.X_OK)), None)


def listed(folder: Path, pattern: str) -> list[Path]:
    """Files of `folder` whose names fit, sorted, hidden ones left out; none where there is no such folder.

    Raises DataError where it cannot be read, which `Path.glob` takes for an empty one.
    """
    try:
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
    except OSError as e:
        raise _read_error(e, folder) from None
    return [folder / name for name in names if fnmatch(name, pattern) and not name.startswith(".")]


def _read_error(e: OSError, path: Path) -> DataError:
    if e.errno in (errno.EACCES, errno.EPERM):
        return DataError(f"{path}: no permission to read it; change its rights")
    return DataError(f"{path}: cannot be read ({e.strerror or e})")


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic `Path.write_bytes`."""
    write_atomic(path, lambda p: _write_synced(p, data))


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """PNG of grey levels (H, W) or colours (H, W, 3), atomically."""
    from PIL import Image

    write_atomic(path, lambda p: Image.fromarray(pixels).save(p, format="png"))


def write_text(path: Path, text: str) -> None:
    """Atomic `Path.write_text`, UTF-8; bytes of a path that are none become \\udcff, which JSON reads back."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, data: Any) -> None:
    """Atomic JSON with a final newline; NaN is refused because it is not JSON."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


_HANDED_OVER = ("/dev/", "/proc/")  # where a shell's <(COMMAND) and standard input are


def open_file(path: Path) -> BinaryIO:
    """`path`, opened to be read. Raises OSError for what is no file: a pipe in its place would be waited for without end."""
    handed_over = str(path).startswith(_HANDED_OVER)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if handed_over else os.O_NONBLOCK))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not handed_over:
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if code == errno.EISDIR else "not a regular file", str(path))
    return open(descriptor, "rb")


def read_short(path: Path, most: int, expected: str, error: type[EchoSynthError] = DataError) -> bytes:
    """Content of a file of at most `most` bytes. Raises `error` when it cannot be read or is longer than `expected`."""
    try:
        with open_file(path) as file:
            data = file.read(most + 1)
    except OSError as e:
        raise error(f"{path}: cannot be read ({e.strerror or e})") from None
    if len(data) > most:
        raise error(f"{path}: more than {most} bytes, expected {expected}")
    return data


def read_short_text(path: Path, most: int, expected: str, error: type[EchoSynthError] = DataError) -> str:
    """`read_short` of UTF-8, with or without the mark that Windows puts at its beginning."""
    try:
        return read_short(path, most, expected, error).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error(f"{path}: not UTF-8 text; save it as UTF-8, not UTF-16 or a code page") from None


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """JSON of `path`. Raises DataError when it is missing, damaged, nested without end, or holds NaN or infinity.

    Args:
        most: characters; `LISTS_CASES` where a dataset's cases are named.
    """
    try:
        with open_file(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text_file:
            text = text_file.read(most + 1)
        if len(text) > most or text.count(",") > most // _CHARACTERS:
            raise DataError(
                f"{path}: more than {most} characters or {most // _CHARACTERS} values, no such file of ours is that long"
            )
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e})") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path}: not readable as JSON ({e!s:.100})") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    """Also 1e999 is infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is too large")
    return number


def new_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A .npy file of `shape`, memory-mapped to be filled in any order; call `flush()` at the end.

    Its space is taken at once, so that a full disk is an OSError here and not a bus error later.
    """
    import numpy as np

    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from None
    finally:
        os.close(descriptor)
    return array


def open_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """What `new_array` made, memory-mapped to be read. Raises DataError for anything else."""
    import numpy as np

    try:
        array: np.memmap[Any, Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{path}: not readable ({e!s:.100})") from None
    if array.shape != shape or array.dtype != dtype:
        raise DataError(f"{path}: holds {array.shape} of {array.dtype}, expected {shape} of {np.dtype(dtype)}")
    return array


def check_writable(folder: Path) -> None:
    """Raise DataError unless files can be made in `folder` (or in its nearest existing parent)."""
    probe = folder
    while not os.path.lexists(probe) and probe != probe.parent:
        probe = probe.parent
    if not probe.is_dir():
        raise DataError(f"{probe}: is a file, expected a folder")
    if not os.access(probe, os.W_OK | os.X_OK):
        raise DataError(f"{folder}: no permission to write in {probe}; choose another folder or change its rights")
