"""SPEC.yaml: presets, and mistakes that are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from echo_synth import specs
from echo_synth.errors import SpecError
from echo_synth.experiment.cells import build_cells
from echo_synth.experiment.spec import read_sweep
from tests.experiment.sweeps import FINGERPRINTS, GRID

PRESETS = sorted(p.stem for p in (specs.root() / "presets/sweeps").glob("*.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name: str) -> None:
    spec = read_sweep(Path(f"{name}.yaml"))
    cells = build_cells(spec, FINGERPRINTS | dict.fromkeys(spec.models, "w"))
    assert cells[0].name in ("real", "real_train0")
    assert all(c.stage("evaluate") is not None for c in cells)
    assert {c.stages[-1].kind for c in cells} <= {"evaluate", "quality"}


def test_a_row_may_not_take_the_name_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("real: 501\ncount: 1\nmodels: {maps: {model: edm, nfe: [1]}}\n")
    with pytest.raises(SpecError, match=r"models\.maps: the name is taken"):
        read_sweep(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "did you mean 'models'"),
        ({"reference": "x"}, "reference: x; expected one of"),
        ({"cells": {"m": {"kind": "mix", "base": "y"}}, "reference": None}, r"cells\.m\.base: y"),
        (
            {"cells": {"real": {"kind": "real"}, "z": {"kind": "mix", "base": "real"}}},
            "real is a real cell; expected a synthetic",
        ),
        (
            {
                "cells": {
                    "real": {"kind": "real", "patients": 3},
                    "z": {"kind": "filtered", "base": "edm-l64_nfe5_seed0"},
                }
            },
            "kind real with all patients",
        ),
        ({"compare": {"c": ["mixed", "reel"]}}, r"compare\.c: reel; expected one of the cells: .*real"),
        ({"compare": {"c": ["real", "mixed"]}, "segmenter": None}, r"compare\.c: expected a segmenter"),
        ({"compare": {"c": ["real", "real"]}}, r"compare\.c: real twice"),
        ({"quality": {}, "reference": None}, "quality: expected reference: .* kind real with all patients, found None"),
        (
            {"quality": {}, "cells": {"real": {"kind": "real", "patients": 3}}},
            "quality: expected reference: .* found real",
        ),
        ({"quality": {"counts": 3}}, "did you mean 'count'"),
        ({"models": {"edm-l46": {"nfe": [1]}}}, "did you mean 'edm-l64'"),
    ],
)
def test_mistakes_in_a_spec_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(GRID | change))
    with pytest.raises(SpecError, match=message):
        build_cells(read_sweep(tmp_path / "s.yaml"), FINGERPRINTS)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": [2**63]}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"repeats": 0}, "repeats"),
        ({"repeats": 100_001}, "repeats"),  # bootstrap-eval takes no more
        (
            {"cells": {"m": {"kind": "mix", "base": "edm-l64_nfe5_seed0", "share": 0}}},
            r"cells\.m\.share",
        ),  # mix-datasets wants both
        ({"cells": {"m": {"kind": "mix", "base": "edm-l64_nfe5_seed0", "share": 1}}}, r"cells\.m\.share"),
        ({"batch": 0}, "batch"),
        ({"count": 10**9}, "count"),
        ({"real": 0}, "real"),
        ({"models": {"edm-l64": {"nfe": [0, 100000]}}}, "nfe"),
        ({"models": {"edm-l64": {"nfe": []}}}, "nfe"),
        ({"models": {"edm-l64": {"nfe": [5], "solver": "rk45"}}}, "solver"),
        ({"models": {"../x": {"model": "edm-l64", "nfe": [5]}}}, "models"),
        ({"cells": {"a/b": {"kind": "real"}}, "reference": None}, "cells"),
        ({"cells": {"real": {"kind": "real", "patients": 0}}}, "patients"),
        ({"cells": {"real": {"kind": "mix", "share": float("nan")}}}, "share"),
        ({"classifier": {"lr": float("inf")}}, "lr"),
        ({"classifier": {"resolution": 31}}, "resolution"),
        ({"classifier": {"resolution": 513}}, "resolution"),  # train-classifier takes 512 at most
        ({"segmenter": {"epochs": 0}}, "epochs"),
        ({"quality": {"count": 1}}, "count"),
        ({"quality": {"rate": 0.9}}, "rate"),
        ({"quality": {"perceptual": "lpips-vgg"}}, "perceptual"),
        ({"segmenter": {"seed": 1, "seeds": [1, 2]}}, "seed and seeds"),
        ({"maps": "a\nb"}, "maps"),
        ({"repeats": [[["x" * 100000]]]}, "repeats"),
    ],
)
def test_impossible_values_are_named(change: dict[str, object], key: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(GRID | change))
    with pytest.raises(SpecError, match=key) as refused:
        read_sweep(tmp_path / "s.yaml")
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("path", ["study/paper/smoke.yaml", "./x/cpu", "missing.yaml"])
def test_a_missing_file_is_no_preset(path: str) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_sweep(Path(path))


def test_unknown_files_name_the_presets() -> None:
    with pytest.raises(SpecError, match="presets: cpu, nfe, paper, paper-grid, questions, six-models, smoke"):
        read_sweep(Path("nothing.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: yes", "count: true .*expected a number"),
        ("count: 8\nseeds: [no, on]", r"seeds\.0: false .*expected a number"),
        ("count: 8\nmodels: {edm: {nfe: [on]}}", r"models\.edm\.nfe\.0: true"),
        ("count: 8\ncells: {no: {kind: real}}", "cells: the name False is read as bool; expected text: put it between"),
        ("count: 8\ncells: {2024-01-01: {kind: real}}", "cells: the name 2024-01-01 is read as date"),
        ("count: 8\nmodels: {edm: {nfe: [5], 5: x}}", r"models\.edm: the name 5 is read as int"),
        ("count: 8\nreference: null", "models, cells: both are empty"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_looks_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """yes counted as one image, and a cell named no was refused without a word on quotes."""
    file = tmp_path / "s.yaml"
    file.write_text(f"real: 501\n{text}\n")
    with pytest.raises(SpecError, match=f"s.yaml: {message}"):
        read_sweep(file)


def test_compile_is_a_boolean(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("real: 501\ncount: 1\ncells: {real: {kind: real}}\ncompile: yes\n")
    assert read_sweep(file).compile is True


@pytest.mark.parametrize(
    "cell",
    [
        {"kind": "real", "count": 5},
        {"kind": "noise", "patients": 3},
        {"kind": "mix", "base": "b", "count": 5},
        {"kind": "bmode", "base": "b"},
        {"kind": "pretrain", "base": "b", "share": 0.5},
        {"kind": "imported", "dataset": 7, "low_agreement": 0.5},
    ],
)
def test_a_setting_that_a_cell_does_not_have_is_refused(cell: dict[str, object], tmp_path: Path) -> None:
    """It changed nothing, silently: noise of three patients was noise of all."""
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({"real": 501, "count": 1, "cells": {"a": cell}}))
    with pytest.raises(SpecError, match=rf"cells\.a\.{list(cell)[-1]}: .* a cell of kind {cell['kind']} has none, but"):
        read_sweep(file)


def test_a_folder_does_not_hide_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smoke").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_sweep(Path("smoke")).real == 501
    (tmp_path / "other").mkdir()
    with pytest.raises(SpecError, match="other: no such file, and no preset of that name"):
        read_sweep(Path("other"))
