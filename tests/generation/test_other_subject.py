"""A dataset that is no heart through the chain: maps, noise images, mixture, evaluation; and what is refused of it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from cli.convert_commands import convert
from cli.data_commands import make_maps, mix_datasets
from cli.evaluate_commands import bootstrap_eval
from cli.generate_commands import generate, noise_dataset
from cli.verify_commands import verify
from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.data.nifti import read_image, read_pixels, write_image
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.prepared import prepare
from echo_synth.data.subject import SUBJECT, Subject, heart, subject_of
from echo_synth.downstream.classifier import read_pictures, subject_of_pictures
from echo_synth.errors import DataError
from echo_synth.evaluation.view_statistics import truth_and_probability, view_names
from echo_synth.generation.request import refuse_other_subject
from echo_synth.generation.run import frames_of
from echo_synth.report.tables import summary
from echo_synth.runs.data import TrainingData, training_data_of, write_training_data
from echo_synth.runs.description import (
    DiffusionDescription,
    VaeDescription,
    build_model,
    describe_diffusion,
    describe_vae,
)
from echo_synth.runs.find import find_diffusion
from echo_synth.runs.folder import open_run
from echo_synth.training.transfer import start_from
from tests.cli.terminal import echosynth, in_terminal
from tests.data.heads import write_heads


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ECHOSYNTH_HOME with the heads of six patients as 510, their maps, and noise images of those as 610."""
    home = tmp_path_factory.mktemp("heads")
    spec = write_heads(home / "source", 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSYNTH_HOME", str(home))
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.delenv(name, raising=False)
        convert(str(spec), 510, workers=1)
        make_maps(510, repeats=2, workers=1)
        noise_dataset(count=10, dataset_id=610)
    return home


@pytest.fixture
def heads(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`made` as the present ECHOSYNTH_HOME."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(made))
    return made


def _real(home: Path) -> RawDataset:
    return RawDataset(home / "nnunet/raw/Dataset510_heads")


def _noise(home: Path) -> RawDataset:
    return RawDataset(home / "nnunet/raw/Dataset610_Noise")


@pytest.mark.slow
def test_names_travel_with_the_files(heads: Path) -> None:
    wanted = _real(heads).subject
    assert wanted.views == ("axial", "coronal")
    places = [heads / "maps/Dataset510_heads", _noise(heads).path, heads / "datasets/classification/Dataset610_Noise"]
    for folder in places:
        assert subject_of(folder) == wanted
    cases = _noise(heads).cases()
    assert len(cases) == 10
    assert set(cases["view"]) == {"axial", "coronal"}
    assert set(cases["patient"]) <= set(_real(heads).cases()["patient"])
    described = json.loads((_noise(heads).path / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "brain": 1, "skull": 2}
    assert "(fetal head)" in (_noise(heads).path / "CARD.md").read_text()
    assert "echocardiogram" not in (_noise(heads).path / "CARD.md").read_text()
    verify(_noise(heads).path)


def test_synthetic_labels_are_those_of_the_maps(heads: Path) -> None:
    maps = open_maps(heads / "maps/Dataset510_heads")
    assert len(maps.index) == 2 * (_real(heads).cases()["split"] != "test").sum()
    for row in _noise(heads).cases().itertuples():
        whole = maps.read_whole(str(row.map))
        assert set(np.unique(whole)) == {1, 2, 4}  # the frame is the sector: nothing lies outside
        labels = read_pixels(_noise(heads).label_path(str(row.case), str(row.split)))
        assert (labels == np.where(whole == 4, 0, whole)).all()
        assert read_pixels(_noise(heads).image_path(str(row.case), str(row.split))).min() >= 1


@pytest.mark.slow
def test_frames_are_numbered_by_the_spec(heads: Path) -> None:
    prepared = prepare(_real(heads))
    assert (prepared.frames == (prepared.cases["view"] == "coronal")).all()
    index = open_maps(heads / "maps/Dataset510_heads").index
    assert (frames_of(index, _real(heads).subject) == (index["view"] == "coronal")).all()
    both = Subject(title="x", views=("a", "b"), phases=("p", "q"), labels={"l": 1}, structures={"l": (1,)})
    assert [both.frame(v, p) for p in "pq" for v in "ab"] == [0, 1, 2, 3]
    assert [heart().frame(v, p) for p in ("ED", "ES") for v in ("2CH", "4CH")] == [0, 1, 2, 3]


def _predictions(home: Path, folder: Path) -> Path:
    """The reference masks, one of them without its skull."""
    references = _real(home).path / "labelsTs"
    shutil.copytree(references, folder)
    file = sorted(folder.glob("*.nii.gz"))[0]
    mask = read_image(file)
    write_image(file, np.where(mask.pixels == 2, 0, mask.pixels).astype(np.uint8), mask.spacing)
    return folder


def test_an_evaluation_speaks_of_the_spec_and_measures_no_volume(heads: Path, tmp_path: Path) -> None:
    bootstrap_eval([_predictions(heads, tmp_path / "pred")], out=tmp_path / "eval", repeats=20)
    metrics = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert set(metrics["segmentation"]) == {"head", "brain"}
    count = len(list((tmp_path / "pred").glob("*.nii.gz")))
    references = read_pixels(sorted((_real(heads).path / "labelsTs").glob("*.nii.gz"))[0])
    brain, whole = (references == 1).sum(), (references > 0).sum()
    lost = 2 * brain / (brain + whole)  # of the one mask without skull
    assert metrics["segmentation"]["brain"]["dice"]["mean"] == 1
    assert metrics["segmentation"]["head"]["dice"]["mean"] == pytest.approx((count - 1 + lost) / count)
    assert "volumes" not in metrics
    assert not {"volumes.csv", "long_axes.csv"} & {p.name for p in (tmp_path / "eval").iterdir()}
    text = summary(metrics)
    assert "By view and phase" in text
    assert "| head |" in text
    for word in ("endocardium", "ejection", "trium", "2CH"):
        assert word not in text


def test_a_report_of_it(heads: Path, tmp_path: Path) -> None:
    from cli.report_commands import report

    bootstrap_eval([_predictions(heads, tmp_path / "pred")], out=tmp_path / "eval", repeats=20)
    report(tmp_path / "eval")
    page = (tmp_path / "eval/report.html").read_text(encoding="utf-8")
    assert "brain" in page
    assert "LV endocardium" not in page


def test_labels_that_the_spec_does_not_know(heads: Path, tmp_path: Path) -> None:
    folder = _predictions(heads, tmp_path / "pred")
    file = sorted(folder.glob("*.nii.gz"))[0]
    mask = read_image(file)
    write_image(file, np.where(mask.pixels == 1, 3, mask.pixels).astype(np.uint8), mask.spacing)
    with pytest.raises(DataError, match=r"prediction holds label 3, expected \[0, 1, 2\]"):
        bootstrap_eval([folder], out=tmp_path / "eval", repeats=20)


def test_pictures_of_two_views(heads: Path) -> None:
    folder = heads / "datasets/classification/Dataset510_heads"
    subject = subject_of_pictures(folder)
    pictures = read_pictures(folder / "train", 32, subject)
    assert set(pictures.classes) == {0, 1}
    import pandas as pd

    table = pd.DataFrame({"view": ["axial", "coronal"], "probability_coronal": [0.1, 0.8]})
    truth, probability = truth_and_probability(table)
    assert view_names(table) == ("axial", "coronal")
    assert list(truth) == [0, 1]
    assert list(probability) == [0.1, 0.8]


def test_one_view_has_nothing_to_classify(tmp_path: Path) -> None:
    one = Subject(title="x", views=("a",), phases=("p",), labels={"l": 1}, structures={"l": (1,)})
    (tmp_path / SUBJECT).write_text(one.model_dump_json())
    with pytest.raises(DataError, match="all images show the view 'a'; a view classifier needs two"):
        subject_of_pictures(tmp_path)


def test_mixtures_are_of_one_kind(heads: Path, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for dataset in (_real(heads), _noise(heads), RawDataset(home / "nnunet/raw/Dataset501_PHANTOM")):
        (raw / dataset.name).symlink_to(dataset.path)
    monkeypatch.setenv("nnUNet_raw", str(raw))
    mix_datasets(510, 710, [610])
    mixed = RawDataset(raw / "Dataset710_MIX")
    assert mixed.subject == _real(heads).subject
    assert json.loads((mixed.path / "dataset.json").read_text())["labels"]["skull"] == 2
    assert set(mixed.cases()["view"]) == {"axial", "coronal"}
    with pytest.raises(DataError, match="Dataset610_Noise: shows 'fetal head', Dataset501_PHANTOM 'heart"):
        mix_datasets(501, 711, [610])


@pytest.mark.parametrize("recipe", ["anatomy", "own"])
def test_recipes_that_measure_hearts(recipe: str, heads: Path, tmp_path: Path) -> None:
    if recipe == "own":
        text = (specs.root() / "presets/maps/paper.yaml").read_text() + "\nmeasure_ef: true\n"
        (tmp_path / "own.yaml").write_text(text)
        recipe = str(tmp_path / "own.yaml")
    with pytest.raises(
        DataError, match=r"--recipe with measure_ef: is for hearts .*'fetal head'; choose --recipe paper"
    ):
        make_maps(510, recipe=recipe, out=tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_generators_of_hearts_are_refused(heads: Path) -> None:
    with pytest.raises(DataError, match="--model bmode: is for hearts"):
        generate("bmode", count=2)
    with pytest.raises(DataError, match=r"learnt hearts, the maps in .* show 'fetal head'; pass --checkpoint"):
        generate("edm-l64", nfe=4, count=2)


def test_weights_say_what_they_learnt(heads: Path, home: Path, tmp_path: Path) -> None:
    """What is refused is the other subject, either way round; not the same one."""
    maps, of_hearts = (
        open_maps(h / "maps" / n) for h, n in ((heads, "Dataset510_heads"), (home, "Dataset501_PHANTOM"))
    )
    run = find_diffusion("edm-l64", specs.root() / "bundled/edm-l64")
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    refuse_other_subject(run, of_hearts)
    write_training_data(copy, TrainingData("Dataset510_heads", "x", ("p-0",), (), subject=maps.subject.key()))
    learnt = find_diffusion("edm-l64", copy)
    refuse_other_subject(learnt, maps)
    with pytest.raises(DataError, match="learnt other views or labels"):
        refuse_other_subject(learnt, of_hearts)
    write_training_data(copy, TrainingData("Dataset501_CAMUS", "x", ("patient0001",), ()))
    assert "subject" not in json.loads((copy / "data.json").read_text())
    known = training_data_of(copy)
    assert known is not None
    assert known.subject == ""


def test_the_key_of_a_subject_changes_with_its_classes() -> None:
    same = {"title": "x", "views": ("a", "b"), "phases": ("p",), "labels": {"l": 1, "m": 2}, "structures": {"l": (1,)}}
    keys = {Subject.model_validate(same).key()}
    keys.add(Subject.model_validate(same | {"views": ("b", "a")}).key())
    keys.add(Subject.model_validate(same | {"labels": {"l": 2, "m": 1}}).key())
    assert len(keys) == 3
    assert heart().key() == ""


_DAMAGED = {
    "a path": {"views": ["../a"]},
    "a gap": {"labels": {"l": 2}, "structures": {"l": [2]}},
    "unknown label": {"structures": {"l": [3]}},
    "twice": {"views": ["a", "a"]},
    "three views": {"views": ["a", "b", "c"]},
    "unknown key": {"heart": True},
}
_WHOLE = {"title": "x", "views": ["a"], "phases": ["p"], "labels": {"l": 1}, "structures": {"l": [1]}}


@pytest.mark.parametrize(
    "text", ["{}", "[]", "not JSON", *(json.dumps(_WHOLE | change) for change in _DAMAGED.values())]
)
def test_a_damaged_subject_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / SUBJECT).write_text(json.dumps(_WHOLE))
    assert subject_of(tmp_path / "whole").views == ("a",)
    (tmp_path / SUBJECT).write_text(text)
    with pytest.raises(DataError, match=r"subject\.json"):
        subject_of(tmp_path)


@pytest.mark.slow
def test_in_a_terminal(tmp_path: Path) -> None:
    spec = write_heads(tmp_path / "heads", 4)
    environment = {"ECHOSYNTH_HOME": str(tmp_path / "home")}
    ended = in_terminal(echosynth("convert", "--spec", str(spec), "--dataset-id", "510", "--workers", "1"), environment)
    assert ended.status == 0, ended.screen
    assert "fetal head: 8 images of 4 patients: 2 train, 2 val, 4 test" not in ended.screen
    assert "fetal head: 8 images of 4 patients" in ended.screen
    spec.write_text(spec.read_text().replace("sector:", "sektor:"))
    ended = in_terminal(echosynth("convert", "--spec", str(spec), "--dataset-id", "511"), environment)
    assert ended.status == 1
    assert "heads.yaml, line 14: unknown key 'sektor'; did you mean 'sector'?" in ended.screen


@pytest.mark.parametrize("command", ["train-vae", "train"])
def test_the_worked_example_starts_from_weights_that_fit(command: str) -> None:
    """docs/recipes/fetal_heads.sh: the bundled weights' size and conditions are those that it asks for."""
    script = (Path(__file__).parents[2] / "docs/recipes/fetal_heads.sh").read_text(encoding="utf-8")
    [line] = [one for one in script.replace("\\\n", " ").splitlines() if one.startswith(f"echosynth {command} ")]
    words = shlex.split(line)
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert all(name.startswith("--") for name in given)  # no switch without a value, of which this would know nothing
    model, size, init = given["--model"], given["--size"], Path(given["--init"]).name
    if command == "train-vae":
        description: VaeDescription | DiffusionDescription = describe_vae(model, size)
    else:
        conditions = specs.conditions_of(specs.diffusion_model(model), size)
        description = describe_diffusion(model, size, "0" * 64, conditions)
    run = open_run(specs.root() / "bundled" / init, description.kind)
    assert start_from(build_model(description), description, run) == 1
