"""SHA256SUMS of a finished folder: what its files were when their command ended, and what differs now.

The format is that of the program sha256sum, so that `sha256sum --check SHA256SUMS` tells altered and missing files
without EchoSynth. A folder that is being filled has none; whoever changes a finished one renews its lines.

settings.json, at the top, has no line: it names folders of the machine, and the same work done elsewhere, or
interrupted and continued, must give the same SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from echo_synth.claims import LOCK
from echo_synth.errors import DataError
from echo_synth.files import PARTIAL, write_bytes
from echo_synth.parallel import available_cores
from echo_synth.progress import track

SUMS = "SHA256SUMS"
_WITHOUT_LINE = (SUMS, "settings.json")
Kind = Literal["missing", "altered", "extra", "unreadable"]
_MOST_BYTES = 1 << 29  # of SHA256SUMS: three files for each of a million images
_MADE_AGAIN = "remove SHA256SUMS and the command that made the folder writes it again"
_AT_ONCE = 4096  # files that wait for a thread
_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *]([^\n]+)")
_ESCAPES = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


@dataclass(frozen=True, order=True)
class Fault:
    """One file that is not as it was.

    Attributes:
        file: relative to the folder.
        why: in words, where the kind does not say all.
    """

    kind: Kind
    file: str
    why: str = ""


@dataclass
class Comparison:
    """A folder against its SHA256SUMS: files that were looked at, their bytes, and what is wrong."""

    files: int = 0
    size: int = 0
    faults: list[Fault] = field(default_factory=list)


def record(folder: Path, changed: Iterable[str] | None = None) -> None:
    """Write SHA256SUMS of all files in `folder` and below but settings.json.

    Args:
        changed: files, relative to `folder`, that were written since the last time; the lines of the others stay
            as they are, so that damage is not taken for what was made. None reads all anew.

    Raises DataError when a file cannot be read, or the folder cannot be written.
    """
    known = {} if changed is None else {n: d for n, d in (read(folder) or {}).items() if n not in set(changed)}
    present = _present(folder)
    sums = {name: digest for name, digest in known.items() if name in present}
    for name, result in _hashed(folder, sorted(present - set(sums)), ""):
        if isinstance(result, OSError):
            raise DataError(f"{folder / name}: cannot be read ({_why(result)}); change its rights, or remove it")
        sums[name] = result[0]
    write_bytes(folder / SUMS, b"".join(_line(name, sums[name]) for name in sorted(sums)))


def drop_lines(folder: Path, names: Iterable[str]) -> None:
    """Files that are about to be written anew: what they were no longer counts. Nothing where there is no SHA256SUMS."""
    known, gone = read(folder), set(names)
    if known is not None and gone & known.keys():
        write_bytes(folder / SUMS, b"".join(_line(n, d) for n, d in sorted(known.items()) if n not in gone))


def renew(folder: Path, changed: Iterable[str]) -> None:
    """The lines of files that a later command wrote or removed; nothing where `folder` has no SHA256SUMS."""
    if (folder / SUMS).is_file():
        record(folder, changed)


def forget(folder: Path) -> None:
    """The folder is about to change: what it was no longer holds."""
    (folder / SUMS).unlink(missing_ok=True)


def compare(folder: Path, label: str = "verify") -> Comparison:
    """All files of `folder` against its SHA256SUMS; locks and files that are being written do not count.

    Raises DataError when SHA256SUMS is missing or damaged, or a folder below cannot be listed.
    """
    sums = read(folder)
    if sums is None:
        raise DataError(f"{folder / SUMS}: missing")
    present = _present(folder)
    result = Comparison()
    result.faults += [Fault("missing", name) for name in sums.keys() - present]
    result.faults += [Fault("extra", name) for name in present - sums.keys()]
    for name, found in _hashed(folder, sorted(present & sums.keys()), label):
        result.files += 1
        if isinstance(found, OSError):
            result.faults.append(Fault("unreadable", name, _why(found)))
            continue
        result.size += found[1]
        if found[0] != sums[name]:
            result.faults.append(Fault("altered", name))
    result.faults.sort(key=lambda f: (f.file, f.kind))
    return result


def content_hash(folder: Path, but: Collection[str] = ()) -> str | None:
    """First 16 hex digits of a SHA-256 of SHA256SUMS, which names all that is in `folder`; None where there is none.

    Args:
        but: files that do not count.
    """
    sums = read(folder)
    if sums is None:
        return None
    lines = b"".join(_line(name, sums[name]) for name in sorted(sums) if name not in but)
    return hashlib.sha256(lines).hexdigest()[:16]


def read(folder: Path) -> dict[str, str] | None:
    """SHA-256 by file name relative to `folder`; None where there is no SHA256SUMS.

    Raises DataError for a file that sha256sum would not take, or that names files outside the folder.
    """
    file = folder / SUMS
    try:
        if not file.exists():
            return None
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file}: not a file of at most {_MOST_BYTES} bytes, as 'echosynth generate' writes it")
        lines = file.read_bytes().split(b"\n")
    except OSError as e:
        raise DataError(f"{file}: cannot be read ({_why(e)}); change its rights") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if line:
            name, digest = _parsed(file, number, line)
            if sums.get(name, digest) != digest:
                raise DataError(f"{file}, line {number}: names {name[:60]!r} again, with another hash; {_MADE_AGAIN}")
            sums[name] = digest
    for name in _WITHOUT_LINE:
        sums.pop(name, None)
    return sums


def _parsed(file: Path, number: int, line: bytes) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataError(
            f"{file}, line {number}: found {line[:60]!r}, expected 64 hex digits, two spaces and a file name; {_MADE_AGAIN}"
        )
    escaped, digest, written = match.groups()
    if escaped:
        written = re.sub(rb"\\[\\nr]", lambda m: _ESCAPES[m.group()], written)
    name = os.fsdecode(written)
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{file}, line {number}: names {name[:60]!r}, expected a file inside the folder")
    return name, digest.decode()


def _line(name: str, digest: str) -> bytes:
    raw = os.fsencode(name)
    written = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if written != raw else b"") + digest.encode() + b"  " + written + b"\n"


def files_in(folder: Path) -> Iterator[str]:
    """Names relative to `folder` of all that is no folder, links included; our locks and temporary files left out, and
    what has no line in SHA256SUMS.

    Raises DataError where a folder below cannot be listed.
    """

    def stop(e: OSError) -> None:
        raise DataError(f"{e.filename or folder}: cannot be read ({_why(e)}); change its rights") from None

    for where, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [f for f in folders if not _is_passing(f)]
        linked = [f for f in folders if os.path.islink(os.path.join(where, f))]
        for name in (*names, *linked):
            relative = os.path.relpath(os.path.join(where, name), folder)
            if not _is_passing(name) and relative not in _WITHOUT_LINE:
                yield relative


def _present(folder: Path) -> set[str]:
    """What SHA256SUMS is about: `files_in` without links to nothing, which a long job is not to fail of at its end."""
    return {name for name in files_in(folder) if os.path.exists(folder / name) or not os.path.islink(folder / name)}


def _is_passing(name: str) -> bool:
    return name.startswith((PARTIAL, LOCK))


Hashed = tuple[str, int] | OSError


def _hashed(folder: Path, names: list[str], label: str) -> Iterator[tuple[str, Hashed]]:
    """SHA-256 and bytes of each file, or why it cannot be read; hashing lets go of the GIL, so threads are enough."""
    waiting = iter(names)
    with ThreadPoolExecutor(available_cores()) as pool:
        results = (
            pair
            for _ in range(0, len(names), _AT_ONCE)
            for some in [list(islice(waiting, _AT_ONCE))]
            for pair in zip(some, pool.map(lambda n: _hash(folder / n), some), strict=True)
        )
        yield from track(results, len(names), label, "files") if label else results


def _hash(file: Path) -> Hashed:
    try:
        # A pipe or a device in a file's place would never end.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return OSError(0, "not a regular file")
            return hashlib.file_digest(opened, "sha256").hexdigest(), status.st_size
    except OSError as e:
        return e


def _why(e: OSError) -> str:
    return e.strerror or str(e)
