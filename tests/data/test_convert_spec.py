"""convert --spec: masks, millimetres, sector and split of a dataset that is no heart; CAMUS by a spec; hostile specs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from PIL import Image

from cli.convert_commands import convert
from cli.data_commands import convert_camus
from cli.main import app
from echo_synth import specs
from echo_synth.checksums import SUMS
from echo_synth.data.dataset_spec import read_dataset_spec
from echo_synth.data.nifti import read_image
from echo_synth.data.nnunet_raw import RawDataset, derive
from echo_synth.data.subject import heart
from echo_synth.errors import DataError, EchoSynthError, SpecError
from tests.data.heads import SPEC, head, write_heads


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The spec of ten patients, and an empty ECHOSYNTH_HOME."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    return write_heads(tmp_path / "heads")


def _convert(spec: Path, **options: object) -> RawDataset:
    convert(str(spec), 510, workers=1, **options)  # type: ignore[arg-type]
    return RawDataset(Path(str(_raw() / f"Dataset510_{spec.stem}")))


def _raw() -> Path:
    from echo_synth.home import nnunet_folder

    return nnunet_folder("nnUNet_raw")


def _edit(spec: Path, old: str, new: str) -> Path:
    text = spec.read_text(encoding="utf-8")
    assert old in text
    spec.write_text(text.replace(old, new), encoding="utf-8")
    return spec


def test_labels_millimetres_and_frame(heads: Path) -> None:
    dataset = _convert(heads)
    cases = dataset.cases()
    assert list(cases["case"][:2]) == ["p-0_axial_still", "p-0_coronal_still"]
    assert len(cases) == 20
    image, mask = head(3)
    row = cases.set_index("case").loc["p-3_axial_still"]
    written = read_image(dataset.label_path("p-3_axial_still", row["split"]))
    assert written.spacing == pytest.approx((0.5 * 96 / 256, 0.4 * 128 / 256))
    mm2 = written.spacing[0] * written.spacing[1]
    for label, values in ((1, [128]), (2, [254, 255]), (0, [0, 7])):
        true_area = np.isin(mask, values).sum() * 0.5 * 0.4
        assert (written.pixels == label).sum() * mm2 == pytest.approx(true_area, rel=0.01)
    pixels = read_image(dataset.image_path("p-3_axial_still", row["split"])).pixels
    assert image.min() == 0  # which must not cut the frame
    assert pixels.min() == 1
    assert derive(dataset, "p-3_axial_still", row["split"], 256).sector.all()


def test_names_of_the_spec_go_into_dataset_and_settings(heads: Path) -> None:
    dataset = _convert(heads, name="HEADS")
    assert not dataset.path.exists()  # it has the name that was asked for
    dataset = RawDataset(_raw() / "Dataset510_HEADS")
    described = json.loads((dataset.path / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "brain": 1, "skull": 2}
    assert list(described["labels"]) == ["background", "brain", "skull"]
    assert dataset.subject.structures == {"head": (1, 2), "brain": (1,)}
    assert dataset.subject.frame("coronal", "still") == 1
    settings = json.loads((dataset.path / "settings.json").read_text())
    assert settings["echosynth"]["licence"] == "CC BY 4.0"
    assert settings["spec"]["images"] == "images/{patient}_{view}.png"
    pictures = Path(settings["classification"])
    assert sorted(p.name for p in (pictures / "train").iterdir()) == ["axial", "coronal"]
    assert "subject.json" in (dataset.path / SUMS).read_text()
    (dataset.path / "subject.json").unlink()
    with pytest.raises(DataError, match="column 'view', row 1: found 'axial', expected 2CH or 4CH"):
        dataset.cases()


@pytest.mark.slow
def test_patients_are_split_by_the_seed(heads: Path) -> None:
    splits = []
    for number, seed in enumerate((0, 0, 1)):
        _edit(heads, "split: {seed: 0", f"split: {{seed: {seed}")
        cases = _convert(heads, overwrite=number > 0).cases()
        assert cases.groupby("patient")["split"].nunique().max() == 1
        counts = cases.groupby("split")["patient"].nunique()
        assert dict(counts) == {"train": 6, "val": 2, "test": 2}
        splits.append(dict(zip(cases["patient"], cases["split"], strict=True)))
    assert splits[0] == splits[1] != splits[2]


def test_patients_are_split_by_lists(heads: Path) -> None:
    lists = {"train": "p_0 p_1\np-2", "val": "p_3", "test": "p_4\n"}
    for name, text in lists.items():
        (heads.parent / f"{name}.txt").write_text(text)
    _edit(heads, "split: {seed: 0, val: 0.2, test: 0.2}", "split: {train: train.txt, val: val.txt, test: test.txt}")
    with pytest.raises(DataError, match=r"5 patient\(s\) on disk are in no list of .*heads.yaml, line 15: split"):
        _convert(heads)
    cases = _convert(heads, allow_missing=True).cases()
    assert dict(cases.groupby("split")["patient"].nunique()) == {"train": 3, "val": 1, "test": 1}
    (heads.parent / "val.txt").write_text("p_0")
    with pytest.raises(SpecError, match=r"line 15: split.val: .*val.txt lists p-0, which is in train too"):
        _convert(heads, allow_missing=True, overwrite=True)


def test_several_images_of_a_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    spec = write_heads(tmp_path / "heads", 5)
    _edit(spec, "{patient}_{view}.png", "p_{patient}_{image}.png")
    _edit(spec, "{patient}_{view}_mask.png", "p_{patient}_{image}_mask.png")
    _edit(spec, "views: {axial: [AX, ax], coronal: CO}", "views: [plane]")
    cases = _convert(spec).cases()
    assert list(cases["case"][:2]) == ["0_plane_still_imAX", "0_plane_still_imCO"]
    assert cases["patient"].nunique() == 5


def test_masks_beside_images_are_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    spec = write_heads(tmp_path / "heads", 4)
    for file in list((tmp_path / "heads").glob("*/*.png")):
        shutil.move(file, tmp_path / "heads" / file.name)
    _edit(spec, "images/{patient}_{view}.png", "{patient}.png")
    _edit(spec, "masks/{patient}_{view}_mask.png", "{patient}_mask.png")
    _edit(spec, "{axial: [AX, ax], coronal: CO}", "[plane]")
    for file in (tmp_path / "heads").glob("*_CO.png"):  # another patient now, so another image
        Image.fromarray(np.array(Image.open(file)) ^ 1).save(file)
    assert len(_convert(spec).cases()) == 8


def test_a_sector_that_is_found(heads: Path) -> None:
    _edit(heads, "sector: frame", "sector: found")
    for file in (heads.parent / "images").iterdir():
        pixels = np.array(Image.open(file))
        pixels[:, :20] = 0
        pixels[:, 20:] = np.maximum(pixels[:, 20:], 1)
        Image.fromarray(pixels).save(file)
    dataset = _convert(heads, native=True)
    row = dataset.cases().iloc[0]
    sector = derive(dataset, row["case"], row["split"], None).sector
    assert (sector == (np.arange(128) >= 20)[None]).all()
    assert row["sector_area_mm2"] == pytest.approx(96 * 108 * 0.2)


def test_nifti_with_its_own_spacing(heads: Path) -> None:
    for file in list(heads.parent.glob("*/*.png")):
        image = sitk.GetImageFromArray(np.array(Image.open(file)))
        image.SetSpacing((0.3, 0.6))
        sitk.WriteImage(image, str(file.with_suffix(".nii.gz")))
    heads.write_text(SPEC.replace(".png", ".nii.gz").replace("spacing: [0.5, 0.4]", "spacing: file"))
    cases = _convert(heads).cases()
    assert cases["native_spacing_row_mm"].iloc[0] == pytest.approx(0.6)
    assert cases["native_spacing_column_mm"].iloc[0] == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ["int16", "int32", "float64"])
def test_native_images_of_any_number_type(heads: Path, kind: str) -> None:
    for file in list(heads.parent.glob("*/*.png")):
        pixels = np.array(Image.open(file)).astype(kind if file.parent.name == "images" else "uint8")
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing((0.4, 0.5))
        sitk.WriteImage(image, str(file.with_suffix(".nii.gz")))
    before = np.array(Image.open(sorted((heads.parent / "images").glob("*.png"))[0]))
    heads.write_text(SPEC.replace(".png", ".nii.gz").replace("spacing: [0.5, 0.4]", "spacing: file"))
    dataset = _convert(heads, native=True)
    row = dataset.cases().iloc[0]
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.image_path(row["case"], row["split"]))))
    assert stored.dtype == (np.float32 if kind == "float64" else np.uint8)
    assert stored.squeeze().shape == before.shape


CAMUS_BY_SPEC = """title: "heart"
images: "database_nifti/{patient}/{patient}_{view}_{phase}.nii.gz"
masks: "database_nifti/{patient}/{patient}_{view}_{phase}_gt.nii.gz"
views: [2CH, 4CH]
phases: [ED, ES]
labels: {lv_endocardium: 1, lv_myocardium: 2, left_atrium: 3}
spacing: file
sector: found
split: {train: database_split/subgroup_training.txt, val: database_split/subgroup_validation.txt,
        test: database_split/subgroup_testing.txt}
"""


@pytest.mark.slow
def test_camus_by_a_spec_is_what_convert_camus_makes(
    phantom: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    source = tmp_path / "source"
    shutil.copytree(phantom, source)
    (source / "PHANTOM.yaml").write_text(CAMUS_BY_SPEC)
    assert read_dataset_spec(source / "PHANTOM.yaml").spec.subject() is heart()
    dataset = _convert(source / "PHANTOM.yaml")
    theirs = converted / "nnunet/raw/Dataset501_PHANTOM"
    files = sorted(p.relative_to(theirs) for p in theirs.rglob("*.nii.gz"))
    assert len(files) == 40
    for name in (*files, Path("dataset.json"), Path("splits_final.json")):
        assert (dataset.path / name).read_bytes() == (theirs / name).read_bytes(), name
    assert not (dataset.path / "subject.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["camus", str(specs.root() / "camus.yaml")])
def test_camus_is_a_short_name(spec: str, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same bytes in every file, but for the folders and the id that settings.json names."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    split = str(phantom / "database_split")
    convert_camus(phantom, 502, name="X", split=split, workers=1, patients=3)
    convert(spec, 503, phantom, name="X", split=split, workers=1, patients=3)
    one, two = (_raw() / f"Dataset{i}_X" for i in (502, 503))
    assert (one / SUMS).read_bytes() == (two / SUMS).read_bytes()
    settings = [json.loads((folder / "settings.json").read_text()) for folder in (one, two)]
    assert settings[0]["command"] == settings[1]["command"] == "convert-camus"
    assert settings[0].keys() == settings[1].keys()
    with pytest.raises(typer.BadParameter, match="needs the folder of CAMUS"):
        convert(spec, 504)


# What is changed, and what the error says, line and key included.
WRONG = {
    "unknown key": ("sector:", "sectr:", r"heads.yaml, line 14: unknown key 'sectr'; did you mean 'sector'\?"),
    "key missing": ('title: "fetal head"\n', "", r"heads.yaml, line 1: title: Field required"),
    "value of a label": (
        "values: 128",
        "values: 300",
        r"heads.yaml, line 8: labels.brain.values.0: .*less than or equal to 255 \(found 300\)",
    ),
    "value in two labels": (
        "values: 128",
        "values: 254",
        "heads.yaml, line 8: labels.brain.values: 254 is a value of skull too",
    ),
    "value of the background": ("[0, 7]", "[0, 128]", "line 8: labels.brain.values: 128 is a value of background too"),
    "tissue": ("tissue: 1", "tissue: 2", "line 7: labels.skull: is tissue 2; expected 1 to 2"),
    "gap": ("tissue: 2", "tissue: 3", "line 7: labels.skull: is tissue 3; expected 1 to 2"),
    "four labels": (
        "background:",
        "  a: 1\n  b: 2\nbackground:",
        "line 6: labels: Dictionary should have at most 3 items",
    ),
    "label name": ("  brain: {", "  bra in: {", r"line 8: labels.bra in.\[key\]: String should match"),
    "background": ("  brain: {", "  background: {", "line 8: labels.background: is what no label has"),
    "three views": ("coronal: CO", "coronal: CO, x: y", "line 5: views: .*should have at most 2 items"),
    "view name": ("coronal: CO", "co_ronal: CO", r"line 5: views.co_ronal.\[key\]: String should match"),
    "view text": ("coronal: CO", "coronal: ax", "line 5: views: 'ax' stands for two of them"),
    "view not in the name": ("{view}.png", "x.png", r"line 3: images: has no \{view\}, but there are several views"),
    "no patient": ("images/{patient}", "images/{image}", r"line 3: images: .* has no \{patient\}"),
    "place": ("images/{patient}", "images/{patent}", r"line 3: images: .*'\{patent\}' is no place"),
    "escape": ("images/{patient}", "../{patient}", r"line 3: images: .*expected a path inside the folder"),
    "absolute": ("masks/{patient}", "/etc/{patient}", r"line 4: masks: .*expected a path inside the folder"),
    "ending": ("{view}.png", "{view}.jpg", r"line 3: images: .* ends otherwise than .png"),
    "mask place": ("_mask.png", "_{image}.png", r"line 4: masks: has \{image\}, whose text the image's name does not"),
    "same pattern": (
        "masks/{patient}_{view}_mask",
        "images/{patient}_{view}",
        "line 4: masks: is the pattern of the images",
    ),
    "no spacing": ("[0.5, 0.4]", "file", "line 13: spacing: PNG files state none"),
    "spacing": ("[0.5, 0.4]", "[0.5, 0]", r"line 13: spacing.1: .*greater than or equal to 0.001 \(found 0\)"),
    "spacing text": ("[0.5, 0.4]", "0.5 mm", "line 13: spacing: .*expected mm a pixel"),
    "sector": ("sector: frame", "sector: fan", r"line 14: sector: Input should be 'frame' or 'found' \(found 'fan'\)"),
    "structure": ("head: [brain, skull]", "head: [brain, scull]", "line 11: structures.head: 'scull' is no label"),
    "seed": ("seed: 0", "seed: -1", r"line 15: split.seed: .*greater than or equal to 0 \(found -1\)"),
    "share": ("test: 0.2", "test: 1", r"line 15: split.test: Input should be less than 1 \(found 1\)"),
    "no one trains": (
        "test: 0.2",
        "test: 0.8",
        "line 15: split: of 10 patients 8 test and 2 validate, and none trains",
    ),
    "list escapes": ("{seed: 0, val: 0.2, test: 0.2}", "{train: ../a.txt}", "line 15: split.train: .*without '..'"),
    "no list": ("{seed: 0, val: 0.2, test: 0.2}", "{train: a.txt}", "line 15: split.train: .*a.txt is missing"),
    "both splits": ("seed: 0", "seed: 0, train: a.txt", "line 15: unknown key 'split.seed'"),
    "split kind": ("{seed: 0, val: 0.2, test: 0.2}", "0.2", "line 15: split: .*expected {seed: 0"),
    "twice": ("sector: frame", "sector: frame\nsector: frame", "'sector' is there twice"),
    "nothing fits": (
        "images/{patient}",
        "image/{patient}",
        r"line 3: images: no file below .* fits .*; there are heads.yaml",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_an_error_names_line_and_key(name: str, heads: Path) -> None:
    old, new, error = WRONG[name]
    _edit(heads, old, new)
    with pytest.raises(EchoSynthError, match=error) as raised:
        _convert(heads)
    assert "\n" not in str(raised.value)
    assert not _raw().exists() or not list(_raw().iterdir())


def test_two_files_of_a_case(heads: Path) -> None:
    for part, end in (("images", ".png"), ("masks", "_mask.png")):
        shutil.copy(heads.parent / part / f"p_0_AX{end}", heads.parent / part / f"p_0_ax{end}")
    with pytest.raises(SpecError, match=r"line 3: images: .*p_0_AX.png and .*p_0_ax.png are both p-0_axial_still"):
        _convert(heads)


def test_two_patients_of_one_name(heads: Path) -> None:
    shutil.copy(heads.parent / "images/p_0_AX.png", heads.parent / "images/p-0_CO.png")
    with pytest.raises(SpecError, match="line 3: images: patients 'p-0' and 'p_0' would both be 'p-0'"):
        _convert(heads)


def test_a_missing_mask(heads: Path) -> None:
    (heads.parent / "masks/p_0_AX_mask.png").unlink()
    with pytest.raises(DataError, match=r"p_0_AX_mask.png: missing, .*line 4: masks; pass --allow-missing"):
        _convert(heads)
    assert len(_convert(heads, allow_missing=True).cases()) == 19
    shutil.rmtree(heads.parent / "masks")
    with pytest.raises(SpecError, match=r"line 4: masks: none of 20 images has its mask"):
        _convert(heads, allow_missing=True, overwrite=True)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda mask: np.where(mask == 7, 9, mask),
            r"label 9 found, expected \[0, 7, 128, 254, 255\]; name it in .*line 6: labels",
        ),
        (lambda mask: mask * 0, "the mask is empty"),
        (lambda mask: mask[:50], r"is \(50, 128\), its image p_0_AX.png is \(96, 128\)"),
        (lambda mask: np.stack([mask, mask // 2, mask], -1), "is in colour"),
        (lambda mask: mask.astype(np.uint16) * 257, "16-bit|32-bit"),
    ],
)
def test_masks_that_are_not_as_the_spec_says(change: object, error: str, heads: Path) -> None:
    file = heads.parent / "masks/p_0_AX_mask.png"
    Image.fromarray(change(np.array(Image.open(file)))).save(file)  # type: ignore[operator]
    with pytest.raises(DataError, match=error) as raised:
        _convert(heads)
    assert "p_0_AX_mask.png" in str(raised.value)
    assert not list(_raw().glob("Dataset*"))


def test_a_spacing_that_cannot_be(heads: Path) -> None:
    _edit(heads, "[0.5, 0.4]", "[50, 40]")
    with pytest.raises(DataError, match=r"96 rows of 50 mm are 4800 mm, .*is .*heads.yaml, line 13: spacing right"):
        _convert(heads)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected keys such as title"),
        ("- a\n- b\n", "expected keys such as title"),
        ("a: &x [1]\nb: *x\n", "anchors"),
        ("a: " + "[" * 40 + "]" * 40, "levels"),
        ("title: !!python/object/apply:os.system [ls]\n", "not readable as YAML"),
        ("title: \x00", "not readable as YAML"),
        ("#" * ((1 << 20) + 1), "bytes"),
        ("labels: {" + ", ".join(f"l{i}: {i}" for i in range(20_000)) + "}\n", "line 1: "),
        ("title: [unclosed\n", "line 2"),
    ],
)
def test_hostile_yaml(text: str, error: str, tmp_path: Path) -> None:
    spec = tmp_path / "x.yaml"
    spec.write_text(text)
    with pytest.raises(SpecError, match=error) as raised:
        read_dataset_spec(spec)
    assert len(str(raised.value)) < 1000
    assert str(spec) in str(raised.value)


def test_the_line_of_what_is_deep_in_the_file(heads: Path) -> None:
    """Lines counted by another way: where the text of the key stands."""
    file = read_dataset_spec(heads)
    lines = SPEC.splitlines()
    for key, text in ((("labels", "brain"), "  brain: {"), (("structures", "head"), "  head:"), (("split",), "split:")):
        assert file.lines.find(key) == next(n for n, line in enumerate(lines, 1) if line.startswith(text))


def test_a_dry_run_writes_nothing(heads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        convert(str(heads), 510, dry_run=True)
    assert '"cases": 20' in capsys.readouterr().out
    assert not _raw().exists()


def test_a_split_beside_a_spec_is_wrong_usage(heads: Path) -> None:
    with pytest.raises(typer.BadParameter, match="it is a key of"):
        convert(str(heads), 510, split="official")
    assert "convert" in typer.main.get_command(app).commands  # type: ignore[attr-defined]
