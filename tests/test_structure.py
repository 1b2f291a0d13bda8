"""The rules of the house: directions of import, light start, no pickles, files that fit on a few screens."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up, no two on one floor: a room may import what stands before it.
ROOMS = [
    *(
        "errors",
        "types",
        "masked",
        "interrupt",
        "home",
        "files",
        "claims",
        "progress",
        "parallel",
        "checksums",
        "folders",
        "outputs",
        "estimate",
        "device",
        "yaml_file",
        "specs",
        "records",
    ),
    *("metrics", "data", "phantom", "vae", "sampling", "diffusion", "runs", "compat", "generation", "foreign"),
    *("training", "verification"),
    *("downstream", "evaluation", "report", "experiment", "browse", "inventory", "doctor", "cli"),
]
PURE = ("vae", "diffusion", "sampling", "metrics")  # arrays and tensors in, arrays and tensors out
FILES = sorted([*(ROOT / "echo_synth").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines; of a function, its body


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(f): f for f in FILES}


def _imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it: `from a import b` counts as a.b where that is a module."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
            imported |= {n if n in MODULES else node.module for n in names}
    return imported


def _room(module: str) -> str:
    """The folder or top file that a module of ours belongs to; "echo_synth" for the package's own front."""
    parts = module.split(".")
    return parts[1] if parts[0] == "echo_synth" and len(parts) > 1 else parts[0]


GRAPH = {m: {i for i in _imports(f) if i in MODULES and i != m} for m, f in MODULES.items()}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "echo_synth"])
def test_imports_point_one_way(module: str) -> None:
    room = _room(module)
    assert room in ROOMS, f"{module}: its room has no place in ROOMS yet"
    for other in GRAPH[module] - {"echo_synth"}:  # the front holds the version
        assert ROOMS.index(_room(other)) <= ROOMS.index(room), f"{module} may not import {other}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    try:
        graphlib.TopologicalSorter(GRAPH).prepare()
    except graphlib.CycleError as e:
        pytest.fail(f"circle: {' -> '.join(e.args[1])}")


@pytest.mark.parametrize("module", MODULES)
def test_outside_libraries_stay_where_they_belong(module: str) -> None:
    path, outside = MODULES[module], {i.split(".")[0] for i in _imports(MODULES[module])}
    if _room(module) != "cli":
        assert "typer" not in outside
    if _room(module) in PURE:
        assert not outside & {"nnunetv2", "pandas", "SimpleITK", "pathlib"}
    if path.name != "unpickle.py":  # reads other people's, restricted
        assert not outside & {"pickle", "cloudpickle", "joblib", "dill", "marshal"}
    if module != "echo_synth.downstream.nnunet":
        assert "nnunetv2" not in outside


def test_files_and_functions_fit_on_a_few_screens() -> None:
    for path in [*FILES, *(ROOT / "nnunet_plugin").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= LONGEST_FILE, f"{path}: more than {LONGEST_FILE} lines"
        assert "fmt: skip" not in text, f"{path}: name the intermediates instead"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                documented = ast.get_docstring(node) is not None and len(node.body) > 1
                first = node.body[1 if documented else 0].lineno  # options and their help are a table, not code
                length = (node.end_lineno or first) - first + 1
                assert length <= LONGEST_FUNCTION, f"{path}: the body of {node.name} has {length} lines"


def test_the_plugin_stands_alone() -> None:
    for path in (ROOT / "nnunet_plugin").glob("*.py"):
        assert not [n for n in _imports(path) if n.split(".")[0] in ("echo_synth", "cli", "data_specs")]


_LOADED = """
import sys
import echo_synth.generation.estimate, echo_synth.generation.physics, echo_synth.generation.request, echo_synth.generation.run
print(*[m for m in ("echo_synth.phantom.scene", "skimage", "scipy.spatial", "monai") if m in sys.modules])
import echo_synth.training.run
from echo_synth.runs import description, find
description.build_model(find.bundled_run("gamma-vae-64").description)
print("monai" in sys.modules)
"""


@pytest.mark.slow
def test_drawing_loads_no_phantom_and_small_models_no_monai() -> None:
    """Simulated physics and the geometry of hearts take a second to import, which a trained model does without; MONAI takes longer
    than all the rest, and only attention of larger VAEs and readers of maps need it."""
    result = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "\nFalse\n"


@pytest.mark.slow
def test_images_are_drawn_without_the_libraries_of_other_commands(tmp_path: Path) -> None:
    """nnU-Net, SimpleITK and others load where they are used: drawing starts sooner, and runs where they are not installed."""
    others = ("SimpleITK", "nnunetv2", "monai", "timm", "matplotlib", "torchvision", "skimage")
    command = ["echosynth", "generate", "--model", "edm-l64", "--nfe", "1", "--count", "1", "--device", "cpu"]
    code = f"import sys; sys.modules.update(dict.fromkeys({others})); sys.argv = {command}; from cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"ECHOSYNTH_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
