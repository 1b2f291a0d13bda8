"""Help: complete, on every terminal, and quick."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer

from cli.groups import GROUPS
from cli.main import app
from tests.cli.terminal import ROOT, echosynth, in_terminal


def _help(*words: str, **environment: str) -> str:
    result = subprocess.run(
        echosynth(*words, "--help"),
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=True,
    )
    assert not result.stderr
    return result.stdout.decode("cp1252" if "cp1252" in environment.values() else "utf-8")


def test_every_command_explains_itself() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert "Example:" in (command.help or ""), name
        for parameter in command.params:
            assert getattr(parameter, "help", "x"), f"{name} {parameter.name} has no help"


def test_every_command_stands_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_the_table_of_the_readme_has_the_same_groups() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for group, commands in GROUPS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {group.lower()} |"))
        assert tuple(name for name in re.findall(r"`([^`]+)`", line) if not name.startswith("--")) == commands


def test_the_overview_lists_the_groups_in_their_order() -> None:
    shown = _help()
    titles = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", *(f"{group}:" for group in GROUPS)]
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2:3].isalpha()]
    names = [name for group in GROUPS.values() for name in group]
    assert [word for word in listed if word in names] == names


@pytest.mark.parametrize("words", [(), ("generate",)])
def test_help_on_a_wide_terminal_is_plain(words: tuple[str, ...]) -> None:
    ended = in_terminal(echosynth(*words, "--help"), {"COLUMNS": "200"})
    assert ended.status == 0
    assert max(map(len, ended.screen.splitlines())) <= 80
    assert "\x1b" not in ended.raw


def test_the_overview_is_complete() -> None:
    shown = _help()
    for words in ("--debug", "ECHOSYNTH_HOME", "Exit codes", "130 interrupted", "--install-completion"):
        assert words in shown
    assert "…" not in shown
    assert "..." not in shown.replace("[ARGS]...", "")


@pytest.mark.parametrize("words", [(), ("train",), ("fit-prior",)])
def test_help_on_a_terminal_that_lacks_greek(words: tuple[str, ...]) -> None:
    shown = _help(*words, PYTHONIOENCODING="cp1252", LANG="C", LC_ALL="C")
    assert "Gamma" in shown
    assert "?" not in shown


def test_help_in_ascii() -> None:
    assert "echosynth_home" in _help(PYTHONIOENCODING="ascii", LANG="C", LC_ALL="C")


def test_an_error_on_a_terminal_that_lacks_greek() -> None:
    result = subprocess.run(
        echosynth("report", "Γ-missing"),
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Gamma-missing" in result.stderr


def test_all_help_fits_80_columns_and_imports_nothing_heavy() -> None:
    """Of every command: what is not here by its own help cannot be there by another's."""
    heavy = (
        "torch",
        "numpy",
        "pandas",
        "monai",
        "nnunetv2",
        "SimpleITK",
        "matplotlib",
        "yaml",
        "scipy",
        "PIL",
    )
    code = f"""
import sys
from cli.groups import GROUPS
from typer.main import get_command
from cli.main import app
command = get_command(app)  # once
early = "pydantic" in sys.modules  # of a command's options typer itself loads it
for words in ([], *([name] for names in GROUPS.values() for name in names)):
    try:
        command([*words, "--help"])
    except SystemExit as ended:
        assert not ended.code
print(early, [m for m in {(*heavy, "rich.progress", "jinja2")} if m in sys.modules], file=sys.stderr)
"""
    command, environment = [sys.executable, "-c", code], {**os.environ, "COLUMNS": "80"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.count("Usage: ") == 1 + sum(map(len, GROUPS.values()))
    assert result.stderr.strip() == "False []"
