"""A small seeded share of the fuzzers: damaged input ends in a clear error or in a right result."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

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
