"""Evaluation, classifier and nnU-Net on phantom data, through the commands."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from cli.classifier_commands import train_classifier
from cli.evaluate_commands import bootstrap_eval
from cli.report_commands import report
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import Image2D, read_image
from echo_synth.errors import DataError, ExistsError, RunError
from echo_synth.evaluation import masks
from echo_synth.evaluation.inputs import resolve_inputs
from echo_synth.evaluation.segmentation import SegmentationResult, evaluate_segmentation
from echo_synth.evaluation.statistics import Resampling
from echo_synth.files import read_json, write_json
from tests.cli.reports import printed

pytestmark = pytest.mark.slow


def _copy_labels(target: Path, change=None) -> Path:  # type: ignore[no-untyped-def]
    source = nnunet_raw.find(501).path / "labelsTs"
    target.mkdir()
    for i, path in enumerate(sorted(source.glob("*.nii.gz"))):
        image = sitk.ReadImage(str(path))
        pixels = sitk.GetArrayFromImage(image)
        changed = sitk.GetImageFromArray(change(i, pixels) if change else pixels)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(target / path.name))
    return target


def _references() -> Path:
    return nnunet_raw.find(501).path / "labelsTs"


def _evaluate(predictions: Path) -> SegmentationResult:
    return evaluate_segmentation(predictions, _references(), Resampling(20), workers=1)


def test_every_mask_is_read_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, volumes and the worst cases come from one reading of predictions, baselines and references."""
    read: list[Path] = []

    def counting(path: Path) -> Image2D:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(masks, "read_image", counting)
    folders = [_copy_labels(tmp_path / name) for name in ("a", "b", "c")]
    result = evaluate_segmentation(folders[0], _references(), Resampling(20), dict(zip("bc", folders[1:], strict=True)))
    assert len(result.tables.volumes) == 2
    assert len(result.worst) == 4
    assert sorted(read) == sorted(p for f in (*folders, _references()) for p in f.glob("*.nii.gz"))


def test_perfect_predictions(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap_eval([_copy_labels(tmp_path / "pred")], out=tmp_path / "eval", repeats=50, as_json=True)
    metrics = read_json(tmp_path / "eval/metrics.json")
    assert printed(capsys, "bootstrap-eval", tmp_path / "eval") == {k: v for k, v in metrics.items() if k != "settings"}
    endo = metrics["segmentation"]["lv_endo"]
    assert endo["dice"] == {"mean": 1.0, "std": 0.0, "ci95": [None, None], "n_images": 4, "n_patients": 1}
    assert endo["hd_mm"]["mean"] == 0
    table = pd.read_csv(tmp_path / "eval/per_case.csv")
    assert list(table.columns[:11]) == [
        "case",
        "patient",
        "view",
        "phase",
        "structure",
        "dice",
        "hd_mm",
        "hd95_mm",
        "assd_mm",
        "hd_px",
        "empty_prediction",
    ]
    assert len(table) == 12
    written = {"summary.md", "scores.png", "settings.json", "volumes.csv", "bland_altman.png", "worst.png"}
    assert written <= {p.name for p in (tmp_path / "eval").iterdir()}
    volumes = metrics["volumes"]
    assert volumes["convention"] == "camus"
    one = {"r": None, "icc": None, "bias": 0.0, "mae": 0.0, "loa": [None, None], "n": 1}
    assert volumes["ef_percent"] == one | {"bias_ci95": [None, None], "mae_ci95": [None, None]}
    assert (volumes["patients"], volumes["patients_without_volume"]) == (1, 0)
    assert volumes["long_axis_ratio"]["p05"] == volumes["long_axis_ratio"]["p95"] == 1
    assert np.sum(volumes["ef_classes"]["table"]) == 1
    assert {"view", "phase", "quality"} <= set(metrics["groups"])
    assert metrics["failures"]["la"] == {"islands": 0, "hd_above_10mm": 0, "empty": 0, "n_predictions": 4}
    assert metrics["trainings"]["intervals_cover"] == "patients"
    assert metrics["groups"]["view"]["2CH"]["lv_endo"]["dice"]["n_images"] == 2


def test_shifted_predictions_are_measured_in_millimetres(home: Path, tmp_path: Path) -> None:
    shifted = _copy_labels(tmp_path / "pred", lambda i, p: np.roll(p, 4, axis=0))
    rows = _evaluate(shifted).tables.per_case
    cases = nnunet_raw.find(501).cases().set_index("case")
    endo = rows[rows["structure"] == "lv_endo"].set_index("case")
    for case, row in endo.iterrows():
        spacing = cases.loc[case, "spacing_row_mm"]
        assert row["hd_px"] <= 4 + 1e-9
        assert row["hd_mm"] == pytest.approx(4 * spacing, rel=0.25)
        assert 0.8 < row["dice"] < 1


def test_empty_predictions_are_penalised_and_counted(home: Path, tmp_path: Path) -> None:
    empty = _copy_labels(tmp_path / "pred", lambda i, p: p * 0 if i == 0 else p)
    bootstrap_eval([empty], out=tmp_path / "eval", repeats=50)
    endo = read_json(tmp_path / "eval/metrics.json")["segmentation"]["lv_endo"]
    assert endo["empty_predictions"] == 1
    assert endo["dice"]["mean"] == pytest.approx(0.75)
    assert np.isfinite(endo["hd_mm"]["mean"])
    table = pd.read_csv(tmp_path / "eval/per_case.csv")
    assert table.loc[table["empty_prediction"], "hd_px"].unique() == pytest.approx([256 * 2**0.5])


def test_pairs_must_match(home: Path, tmp_path: Path) -> None:
    pred = _copy_labels(tmp_path / "pred")
    first = sorted(pred.iterdir())[0]
    (pred / "patient9999_2CH_ED.nii.gz").write_bytes(first.read_bytes())
    with pytest.raises(DataError, match="have no reference"):
        bootstrap_eval([pred], references=_references(), out=tmp_path / "e")
    (pred / "patient9999_2CH_ED.nii.gz").unlink()
    first.unlink()
    with pytest.raises(DataError, match=r"are missing, e\.g\."):
        bootstrap_eval([pred], references=_references(), out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_other_grids_and_labels_are_named(home: Path, tmp_path: Path) -> None:
    wrong = _copy_labels(tmp_path / "a", lambda i, p: np.where(p == 3, 9, p).astype(np.uint8))
    with pytest.raises(DataError, match="holds label 9"):
        _evaluate(wrong)
    pred = _copy_labels(tmp_path / "b")
    path = sorted(pred.iterdir())[0]
    sitk.WriteImage(sitk.ReadImage(str(path))[:128, :128], str(path))
    with pytest.raises(DataError, match="predict on the same grid"):
        _evaluate(pred)


def test_predictions_that_are_stored_another_way_are_refused(home: Path, tmp_path: Path) -> None:
    """The same place in space, rows or columns the other way round, as tools that reorient leave them."""
    predictions = _copy_labels(tmp_path / "turned")
    for file in predictions.glob("*.nii.gz"):
        image = sitk.ReadImage(str(file))
        sitk.WriteImage(sitk.Flip(image, [True] + [False] * (image.GetDimension() - 1)), str(file))
    with pytest.raises(DataError, match=r"the prediction's direction \(orientation\) differs from the reference's"):
        _evaluate(predictions)


@pytest.mark.parametrize("itself", [True, False])
def test_references_that_are_taken_as_predictions_are_noted(itself: bool, home: Path, tmp_path: Path) -> None:
    predictions = _references() if itself else _copy_labels(tmp_path / "copy")
    found = resolve_inputs([predictions], _references(), None, None, None, None, (), ())
    assert found.judges_references is itself


@pytest.mark.parametrize("name", ["predictions", "other"])
def test_a_baseline_of_any_name_is_not_taken_for_what_is_judged(name: str, home: Path, tmp_path: Path) -> None:
    """In a sweep all folders of predictions have the same name; each arm keeps its own scores."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours = _copy_labels(tmp_path / "ours/predictions", lambda i, pixels: np.where(pixels == 3, 0, pixels))
    theirs = _copy_labels(tmp_path / "theirs" / name)
    bootstrap_eval([ours], baseline=[theirs], out=tmp_path / "eval", repeats=20)
    metrics = read_json(tmp_path / "eval/metrics.json")
    assert metrics["segmentation"]["la"]["dice"]["mean"] == 0
    assert metrics["paired_baselines"][name]["la"]["dice"]["mean"] == -1
    assert set(pd.read_csv(tmp_path / "eval/per_case.csv").query("structure == 'la'")["dice"]) == {0}


def test_a_baseline_is_compared_case_by_case(home: Path, tmp_path: Path) -> None:
    good, bad = _copy_labels(tmp_path / "good"), _copy_labels(tmp_path / "bad", lambda i, p: np.roll(p, 6, axis=1))
    bootstrap_eval([good], baseline=[bad], out=tmp_path / "eval", repeats=50)
    paired = read_json(tmp_path / "eval/metrics.json")["paired"]["lv_endo"]
    assert paired["dice"]["mean"] > 0
    assert paired["hd_mm"]["mean"] < 0
    assert (paired["dice"]["p_holm"], paired["dice"]["p"]) == (None, None)  # of one patient nothing is tested
    bootstrap_eval([good], baseline=[bad, good], out=tmp_path / "two", repeats=50)
    several = read_json(tmp_path / "two/metrics.json")
    assert set(several["paired_baselines"]) == {"bad", "good"}
    assert several["paired_baselines"]["good"]["la"]["dice"]["mean"] == 0
    assert several["paired"] == several["paired_baselines"]["bad"]


def test_trainings_of_one_arm_are_judged_together(home: Path, tmp_path: Path) -> None:
    """Folders repeated, or below one folder; seeds in their names; a baseline of several trainings."""
    arm = tmp_path / "arm"
    arm.mkdir()
    folders = [
        _copy_labels(arm / f"gen{g}_seg{s}", lambda i, p, g=g, s=s: np.roll(p, 1 + g + 2 * s, 1))
        for g, s in product((0, 1), (0, 1))
    ]
    others = [_copy_labels(tmp_path / name) for name in ("x", "y")]
    bootstrap_eval([arm], baseline_seed=[f"real={f}" for f in others], out=tmp_path / "a", repeats=20)
    bootstrap_eval(folders, out=tmp_path / "b", repeats=20)
    metrics, alone = read_json(tmp_path / "a/metrics.json"), read_json(tmp_path / "b/metrics.json")
    assert metrics["segmentation"] == alone["segmentation"]
    assert metrics["trainings"]["generator_seeds"] == metrics["trainings"]["segmenter_seeds"] == 2
    table = pd.read_csv(tmp_path / "a/per_case.csv")
    assert len(table) == 4 * 12
    assert set(table["training"]) == {f.name for f in folders}
    assert metrics["segmentation"]["la"]["dice"]["n_images"] == 4
    dice = metrics["paired_baselines"]["real"]["la"]["dice"]
    assert dice["trainings"] == [4, 2]
    assert dice["covers"] == "patients and trainings"
    assert "patients and trainings" in (tmp_path / "a/summary.md").read_text()
    with pytest.raises(DataError, match="given twice"):
        bootstrap_eval([others[0], others[0]], out=tmp_path / "c")
    with pytest.raises(DataError, match="expected NAME=DIR"):
        bootstrap_eval([others[0]], baseline_seed=["real"], out=tmp_path / "c")


def test_scores_on_the_images_own_grid(home: Path, phantom: Path, tmp_path: Path) -> None:
    """Converted labels against CAMUS itself: what the smaller grid costs, and no more."""
    bootstrap_eval([_copy_labels(tmp_path / "pred")], native=phantom, out=tmp_path / "eval", repeats=20)
    metrics = read_json(tmp_path / "eval/metrics.json")
    native = metrics["segmentation_native"]["lv_endo"]["dice"]["mean"]
    assert 0.95 < native < metrics["segmentation"]["lv_endo"]["dice"]["mean"] == 1
    with pytest.raises(DataError, match="no reference of"):
        bootstrap_eval([tmp_path / "pred"], native=tmp_path, out=tmp_path / "other")


def test_nothing_is_replaced_unasked(home: Path, tmp_path: Path) -> None:
    """Two folders of one name; the same evaluation again; one that was cut off; stale files with --overwrite."""
    first, second = (_copy_labels(_made(tmp_path / n) / "pred") for n in "ab")
    bootstrap_eval([first], repeats=20)
    folder = home / "evaluation/pred"
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(ExistsError, match="--overwrite"):
        bootstrap_eval([second], repeats=20)
    bootstrap_eval([first], repeats=20)
    assert (folder / "metrics.json").read_bytes() == before
    (folder / "metrics.json").unlink()
    bootstrap_eval([second], repeats=20)
    (folder / "views.csv").write_text("of an earlier evaluation\n")
    bootstrap_eval([first], repeats=20, overwrite=True)
    assert not (folder / "views.csv").exists()
    path = next(first.iterdir())
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    with pytest.raises(ExistsError, match="--overwrite"):  # the same words, other masks
        bootstrap_eval([first], repeats=20)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_names_that_are_no_cases_are_refused(home: Path, tmp_path: Path) -> None:
    for name in ("pred", "refs"):
        first = sorted(_references().iterdir())[0]
        (_made(tmp_path / name) / "scan1.nii.gz").write_bytes(first.read_bytes())
    with pytest.raises(DataError, match="'scan1' is not a case name"):
        bootstrap_eval([tmp_path / "pred"], references=tmp_path / "refs", out=tmp_path / "e")


def test_an_empty_cavity_leaves_its_patient_without_volume(home: Path, tmp_path: Path) -> None:
    bootstrap_eval([_copy_labels(tmp_path / "pred", lambda i, p: p * 0)], out=tmp_path / "eval", repeats=20)
    volumes = read_json(tmp_path / "eval/metrics.json")["volumes"]
    assert volumes["patients_without_volume"] == 1
    assert volumes["ef_percent"]["n"] == 0


def test_references_without_spacing_are_refused(home: Path, tmp_path: Path) -> None:
    for name in ("pred", "refs"):
        for path in _copy_labels(tmp_path / name).iterdir():
            image = sitk.ReadImage(str(path))
            image.SetSpacing((1.0, 1.0))
            sitk.WriteImage(image, str(path))
    with pytest.raises(DataError, match="no spacing"):
        bootstrap_eval([tmp_path / "pred"], references=tmp_path / "refs", out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_classifier_learns_resumes_and_reports(home: Path, tmp_path: Path) -> None:
    pictures = home / "datasets/classification/Dataset501_PHANTOM"
    run = tmp_path / "run"
    train_classifier(pictures, out=run, epochs=1, resolution=32, batch=4, precision="fp32")
    bootstrap_eval(classifier=run, images=pictures, out=tmp_path / "eval", repeats=20)
    metrics = read_json(tmp_path / "eval/metrics.json")
    assert metrics["classification"]["accuracy"]["n_images"] == 4
    views = pd.read_csv(tmp_path / "eval/views.csv")
    assert views["probability_4CH"].between(0, 1).all()
    description = read_json(run / "model.json")
    write_json(run / "model.json", description | {"classes": ["4CH", "2CH"]})
    with pytest.raises(RunError, match="classes are"):
        bootstrap_eval(classifier=run, images=pictures, out=tmp_path / "other")


def test_a_classifier_needs_images(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        train_classifier(tmp_path, out=tmp_path / "run")


def test_the_report_stands_alone(home: Path, tmp_path: Path) -> None:
    bootstrap_eval([_copy_labels(tmp_path / "pred")], out=tmp_path / "eval", repeats=20)
    report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "LV endocardium" in page
    assert "http://" not in page
    assert "https://" not in page
    assert '<html lang="en">' in page
    assert all("alt=" in tag for tag in page.split("<img")[1:])


def test_env_names_a_folder_with_the_plugin_only() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cli.main", "env"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    values = dict(line.removeprefix("export ").split("=", 1) for line in result.stdout.splitlines())
    folder = Path(values["nnUNet_extTrainer"])
    assert folder.name == "nnunet_plugin"
    assert {"__init__.py", "echosynth_trainers.py"} <= {p.name for p in folder.glob("*.py")}
    assert {"nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "ECHOSYNTH_HOME"} <= set(values)
