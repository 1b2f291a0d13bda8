"""A small seeded share of the fuzzers: damaged input ends in a clear error or in a right result."""

from __future__ import annotations

import importlib
import mmap
from pathlib import Path

import pytest

from tests.fuzz import harness
from tests.fuzz.harness import Kind, faults, fuzz

pytestmark = pytest.mark.slow

MODULES = sorted(p.stem for p in Path(__file__).parent.glob("f_*.py"))
INPUTS = 40  # of each kind


@pytest.fixture(scope="module")
def base(phantom: Path, converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fuzzers damage: a phantom and a home with a converted dataset and maps."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "phantom").symlink_to(phantom)
    (folder / "home").symlink_to(converted)
    return folder


@pytest.mark.parametrize("module", MODULES)
def test_damaged_input_is_refused_in_words(module: str, base: Path, tmp_path: Path) -> None:
    for kind in importlib.import_module(f"tests.fuzz.{module}").kinds(base, tmp_path):
        assert not faults(fuzz(kind, INPUTS)), kind.name


def test_the_harness_tells_memory_that_is_used_from_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(number: int) -> None:
        if number == 1:
            mmap.mmap(-1, 300 << 20)  # reserved, and never touched
        if number == 2:
            bytearray(b"x") * (300 << 20)

    monkeypatch.setattr(harness, "MEMORY", 200 << 20)
    outcomes = fuzz(Kind("large", lambda rng, number: number, read), 4)
    assert outcomes["ok"] == 3
    assert [name for name in faults(outcomes) if "MB resident" in name], outcomes


def test_the_harness_goes_on_afresh_when_inputs_leave_much_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bytearray] = []

    def read(number: int) -> None:
        kept.append(bytearray(b"x" * (100 << 20)))
        assert len(kept) < 4

    monkeypatch.setattr(harness, "_KEPT", 150 << 20)
    assert fuzz(Kind("leaky", lambda rng, number: number, read), 8) == {"ok": 8}


def test_the_harness_sees_what_goes_wrong() -> None:
    def read(number: int) -> None:
        if number == 1:
            raise ZeroDivisionError("foreign")
        if number == 2:
            bytearray(1 << 40)
        if number == 3:
            __import__("os").kill(__import__("os").getpid(), 11)

    outcomes = fuzz(Kind("broken", lambda rng, number: number, read), 6)
    assert outcomes["ok"] == 3
    assert {name.split(":")[0].split("@")[0] for name in faults(outcomes)} == {"FOREIGN", "MEMORY", "CRASH"}
