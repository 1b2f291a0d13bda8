"""Writing so that a kill or a full disk leaves either the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echo_synth.errors import DataError, ExistsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTIAL = ".partial-"
_UMASK = os.umask(0)
os.umask(_UMASK)  # the only way to read it


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it into place.

    The temporary name ends like the final one, so that writers which choose a format by the
    suffix see the right one. Raises DataError when the disk is full or not writable.
    """
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.chmod(temporary, 0o666 & ~_UMASK)  # some writers make private files
        os.replace(temporary, path)
    except OSError as e:
        raise disk_error(e, path) from e
    finally:
        temporary.unlink(missing_ok=True)


def disk_error(e: OSError, path: Path) -> DataError:
    """An OSError of writing `path` in words that say what to do."""
    if e.errno == errno.ENOSPC:
        return DataError(f"{path}: no space left on the device; free some and run the same command again")
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DataError(f"{path}: no permission to write; choose another folder or change its rights")
    return DataError(f"{path}: cannot be written ({e.strerror or e})")


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
    """Atomic `Path.write_text`, UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Atomic JSON with a final newline; NaN is refused because it is not JSON."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """JSON of `path`. Raises DataError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: not readable as JSON ({e})") from None


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise ExistsError when `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise ExistsError(f"{path} exists; pass --overwrite to replace it, or another --out")


def check_writable(folder: Path) -> None:
    """Raise DataError unless files can be made in `folder` (or in its nearest existing parent)."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    if not probe.is_dir():
        raise DataError(f"{probe}: is a file, expected a folder")
    if not os.access(probe, os.W_OK | os.X_OK):
        raise DataError(f"{folder}: no permission to write in {probe}; choose another folder or change its rights")


def _sweep(path: Path) -> None:
    """Remove what killed processes left of `path`; what living ones are filling stays."""
    for leftover in path.parent.glob(f"{PARTIAL}{path.name}.*"):
        process = leftover.name.rpartition(".")[2]
        if not (process.isdigit() and Path(f"/proc/{process}").exists() and int(process) != os.getpid()):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def new_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """A folder that appears at `path` complete or not at all.

    Yields a temporary sibling to fill; renames it into place when the block ends without an
    error and removes it otherwise. An existing `path` is an ExistsError unless `overwrite`, and
    then it stays until its successor is whole.
    """
    if path.exists() and not overwrite:
        raise ExistsError(f"{path} exists; pass --overwrite to replace it, or choose another name")
    check_writable(path.parent)
    temporary = path.with_name(f"{PARTIAL}{path.name}.{os.getpid()}")  # two processes may make the same folder
    old = path.with_name(f"{PARTIAL}old-{path.name}")
    if old.exists() and not path.exists():  # killed between the two renames
        os.rename(old, path)
    _sweep(path)
    shutil.rmtree(old, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as e:
        raise disk_error(e, path) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            os.rename(old, path)
