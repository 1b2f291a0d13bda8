"""SHA256SUMS: what sha256sum takes, what it finds, and what it must not hide."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from echo_synth import checksums
from echo_synth.checksums import SUMS, Fault
from echo_synth.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    for name in ("a.bin", "inner/b.bin", "inner/deep/c.bin"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(name.encode() * 100)
    checksums.record(made)
    return made


def _faults(folder: Path) -> list[Fault]:
    return checksums.compare(folder).faults


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_a_folder_is_what_it_was(folder: Path) -> None:
    found = checksums.compare(folder)
    assert found.faults == []
    assert (found.files, found.size) == (3, sum(len(n) * 100 for n in ("a.bin", "inner/b.bin", "inner/deep/c.bin")))


def test_missing_altered_and_extra_files_at_once(folder: Path) -> None:
    (folder / "a.bin").unlink()
    _flip(folder / "inner/b.bin")
    (folder / "inner/new.txt").touch()
    assert _faults(folder) == [
        Fault("missing", "a.bin"),
        Fault("altered", "inner/b.bin"),
        Fault("extra", "inner/new.txt"),
    ]


def test_what_names_folders_of_the_machine_has_no_line_in_old_files_either(folder: Path) -> None:
    before = (folder / SUMS).read_bytes()
    (folder / "settings.json").write_text('{"run": "/elsewhere"}')
    checksums.record(folder)
    assert (folder / SUMS).read_bytes() == before
    (folder / SUMS).write_bytes(before + b"0" * 64 + b"  settings.json\n")
    assert _faults(folder) == []


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
@pytest.mark.parametrize("name", ["plain", "line\nbreak", "back\\slash", "spa ces  two", "é", os.fsdecode(b"\xff")])
def test_hostile_names_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    checksums.record(tmp_path)
    assert set(checksums.read(tmp_path) or {}) == {name}
    assert _faults(tmp_path) == []
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path, check=True, capture_output=True)
    _flip(tmp_path / name)
    assert _faults(tmp_path) == [Fault("altered", name)]


def test_locks_and_half_written_files_do_not_count(folder: Path) -> None:
    for name in (".echosynth-lock", ".echosynth-lock-0-of-1", ".partial-5-x", "inner/.partial-7-y"):
        (folder / name).touch()
    (folder / ".partial-0-of-1").mkdir()
    (folder / ".partial-0-of-1" / "z").touch()
    assert _faults(folder) == []


def test_what_is_in_a_files_place_is_not_waited_for(folder: Path) -> None:
    (folder / "a.bin").unlink()
    os.mkfifo(folder / "a.bin")
    (folder / "inner/b.bin").unlink()
    (folder / "inner/b.bin").symlink_to("/dev/zero")
    (folder / "inner/deep/c.bin").unlink()
    (folder / "inner/deep/c.bin").mkdir()
    kinds = {f.file: f.kind for f in _faults(folder)}
    assert kinds == {"a.bin": "unreadable", "inner/b.bin": "unreadable", "inner/deep/c.bin": "missing"}


def test_a_link_to_a_folder_is_extra_and_not_followed(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    assert _faults(folder) == [Fault("extra", "loop")]


def test_a_link_to_nothing_does_not_count(folder: Path) -> None:
    (folder / "leftover").symlink_to(folder / "gone")
    checksums.record(folder)
    assert _faults(folder) == []
    (folder / "a.bin").unlink()
    (folder / "a.bin").symlink_to(folder / "gone")
    assert _faults(folder) == [Fault("missing", "a.bin")]


def test_a_later_record_does_not_take_damage_for_what_was_made(folder: Path) -> None:
    _flip(folder / "a.bin")
    (folder / "inner/b.bin").write_bytes(b"written anew")
    checksums.record(folder, ["inner/b.bin"])
    assert _faults(folder) == [Fault("altered", "a.bin")]


def test_lines_of_files_that_are_made_again_are_dropped(folder: Path) -> None:
    checksums.drop_lines(folder, ["a.bin", "unknown"])
    assert _faults(folder) == [Fault("extra", "a.bin")]
    checksums.drop_lines(folder / "inner", ["b.bin"])  # has none of its own
    assert not (folder / "inner" / SUMS).exists()


def test_renewing_leaves_folders_without_a_record_alone(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    checksums.renew(tmp_path, ["a"])
    assert not (tmp_path / SUMS).exists()


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"0" * 63 + b"  a", b"0" * 64 + b"  /etc/passwd", b"0" * 64 + b"  ../a", b"0" * 64 + b"  b/../../a"],
)
def test_damaged_records_are_refused_by_line(folder: Path, line: bytes) -> None:
    (folder / SUMS).write_bytes((folder / SUMS).read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=f"{SUMS}, line 4: "):
        checksums.compare(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_that_may_not_be_read(folder: Path) -> None:
    (folder / "a.bin").chmod(0)
    assert _faults(folder) == [Fault("unreadable", "a.bin", "Permission denied")]
    with pytest.raises(DataError, match=r"a.bin: cannot be read"):
        checksums.record(folder)
    (folder / "inner").chmod(0)
    with pytest.raises(DataError, match="inner: cannot be read"):
        checksums.compare(folder)
    (folder / "inner").chmod(0o755)


def test_the_hash_of_a_folder_changes_with_any_file(folder: Path) -> None:
    before = checksums.content_hash(folder)
    _flip(folder / "a.bin")
    checksums.record(folder)
    assert before
    assert checksums.content_hash(folder) not in (None, before)
    checksums.forget(folder)
    assert checksums.content_hash(folder) is None


def test_a_file_with_two_hashes_is_refused(folder: Path) -> None:
    """`sha256sum --check` compares both; one that is right must not hide another that is not."""
    right = (folder / SUMS).read_text().splitlines()
    (folder / SUMS).write_text("\n".join([f"{'0' * 64}{right[0][64:]}", *right]) + "\n")
    with pytest.raises(DataError, match=r"line 2: names '.*' again, with another hash"):
        _faults(folder)
    (folder / SUMS).write_text("\n".join([right[0], *right]) + "\n")
    assert not _faults(folder)
