"""The house's rules: directions of import, light start, no pickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import from the rooms of lower rank, and within its own.
RANK = {
    "errors": 0, "types": 0, "progress": 0, "masked": 0, "specs": 1, "files": 1, "home": 1, "claims": 2, "interrupt": 0, "parallel": 1, "device": 1,
    "data": 2, "sampling": 2, "vae": 2, "diffusion": 2.5, "metrics": 2, "phantom": 2.5,
    "runs": 2.7, "training": 3, "generation": 3.5, "compat": 3.5, "downstream": 3.7, "report": 4.5, "evaluation": 4.5, "experiment": 5,
}  # fmt: skip
PURE = ("vae", "diffusion", "sampling", "metrics")


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def _room(path: Path) -> str:
    return path.relative_to(ROOT / "echo_synth").parts[0].removesuffix(".py")


FILES = sorted((ROOT / "echo_synth").rglob("*.py"))


@pytest.mark.parametrize("path", [f for f in FILES if _room(f) != "__init__"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = _room(path)
    for name in _imports(path):
        parts = name.split(".")
        assert parts[0] not in ("cli", "typer"), f"{path} imports {name}"
        if parts[0] == "echo_synth" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[room], f"{room} may not import {parts[1]}"
        if room in PURE:
            assert parts[0] not in ("nnunetv2", "pandas", "SimpleITK", "pathlib"), f"{path} imports {name}"
        if path.name != "unpickle.py":  # reads other people's, restricted
            assert parts[0] not in ("pickle", "cloudpickle", "joblib"), f"{path} imports {name}"
        if parts[0] == "nnunetv2":
            assert path.name == "nnunet.py"


def test_the_plugin_stands_alone() -> None:
    for path in (ROOT / "nnunet_plugin").glob("*.py"):
        assert not [n for n in _imports(path) if n.split(".")[0] in ("echo_synth", "cli", "data_specs")]


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from cli.main import app; print([m for m in ('torch', 'numpy', 'pandas', 'monai', 'pydantic') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_small_models_load_without_monai() -> None:
    """It takes longer to import than all the rest, and only attention of larger VAEs needs it."""
    code = "import sys; from echo_synth.runs import description, folder; description.build_model(folder.bundled_run('gamma-vae-64').description); print('monai' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "False"


def test_every_command_explains_itself() -> None:
    import typer

    from cli.main import app

    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert "Example:" in (command.help or ""), name
        for parameter in command.params:
            assert getattr(parameter, "help", "x"), f"{name} {parameter.name} has no help"
