"""Cases that are odd together: one image twice, phases swapped, images turned by another tool."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from echo_synth.data import convert, nnunet_raw
from echo_synth.data.between_cases import Seen, notes_of
from echo_synth.data.image2d import Image2D
from echo_synth.data.nifti import read_image
from echo_synth.data.pair import upright
from echo_synth.errors import DataError, ExistsError


@pytest.fixture
def camus(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five phantom patients of four images, which a test may spoil: three train, one validates, one is held out."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    folder = Path(shutil.copytree(phantom, tmp_path / "ph"))
    for name, numbers in {"training": (1, 2, 3), "validation": (4,), "testing": (5,)}.items():
        patients = "".join(f"patient{n:04d}\n" for n in numbers)
        (folder / "database_split" / f"subgroup_{name}.txt").write_text(patients)
    return folder


def _converted(source: Path, dataset_id: int = 501, **given: object) -> tuple[nnunet_raw.RawDataset, list[str]]:
    plan = convert.plan(source, None, allow_missing=bool(given.pop("allow_missing", False)))
    told: list[str] = []
    target = nnunet_raw.target(dataset_id, f"D{dataset_id}", False, convert.MADE_BY)
    convert.convert(plan.jobs, target, None, None, {}, workers=1, inputs=[source], tell=told.append)
    return nnunet_raw.RawDataset(target), told + plan.notes


def _patients(camus: Path, split: str) -> list[str]:
    return (camus / "database_split" / f"subgroup_{split}.txt").read_text().split()


def test_a_friendly_dataset_has_nothing_odd(camus: Path) -> None:
    assert _converted(camus)[1] == []


def test_images_turned_by_another_tool_are_turned_back_as_their_headers_say(camus: Path) -> None:
    straight, _ = _converted(camus)
    for path in camus.glob("database_nifti/*/*.nii.gz"):
        image = nib.load(path)
        deep = nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)  # type: ignore[attr-defined]
        nib.save(nib.as_closest_canonical(deep), path)
    turned, notes = _converted(camus, 502)
    assert any("20 image(s) were turned upright as their headers say" in n for n in notes)
    for row in straight.cases().itertuples():
        for at in ("image_path", "label_path"):
            one, other = (read_image(getattr(d, at)(row.case, row.split)) for d in (straight, turned))
            assert np.array_equal(one.pixels, other.pixels)
            assert one.spacing == pytest.approx(other.spacing)


@pytest.mark.parametrize("rows", [(0, 1), (0, -1), (1, 0), (-1, 0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_upright_is_where_each_pixel_lies_in_the_world(rows: tuple[int, int], sign: int) -> None:
    """Against positions: the pixel that is furthest up and to the right (ITK: smallest y and x) comes first."""
    columns = (sign * abs(rows[1]), sign * abs(rows[0]))
    direction = np.array([[columns[0], rows[0]], [columns[1], rows[1]], [0, 0]], float)
    pixels = np.arange(12).reshape(3, 4)
    found = upright(Image2D(pixels, (0.5, 0.25), direction))
    where = {}
    for r in range(3):
        for c in range(4):
            x, y = np.array(columns) * c * 0.25 + np.array(rows) * r * 0.5
            where[(y, x)] = pixels[r, c]
    assert found.pixels.ravel().tolist() == [where[key] for key in sorted(where)]
    assert found.spacing == ((0.5, 0.25) if rows[1] else (0.25, 0.5))


def test_an_oblique_image_stays() -> None:
    angle = np.deg2rad(30)
    direction = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)], [0, 0]])
    pixels = np.arange(6).reshape(2, 3)
    assert upright(Image2D(pixels, (1, 2), direction)).pixels is pixels


def test_a_test_patients_image_under_a_training_patients_name_is_refused(camus: Path) -> None:
    train, test = _patients(camus, "training")[0], _patients(camus, "testing")[0]
    source = camus / "database_nifti"
    for path in (source / train).glob("*_2CH_ED*"):
        shutil.copy(path, source / test / path.name.replace(train, test))
    with pytest.raises(DataError, match=f"{test}_2CH_ED .test. and {train}_2CH_ED .train. are the same image"):
        _converted(camus)
    assert not list((camus.parent / "home").rglob("Dataset5*"))


def test_one_image_of_two_training_patients_is_noted(camus: Path) -> None:
    one, other = _patients(camus, "training")[:2]
    source = camus / "database_nifti"
    for ending in ("", "_gt"):
        shutil.copy(source / one / f"{one}_2CH_ED{ending}.nii.gz", source / other / f"{other}_2CH_ED{ending}.nii.gz")
    assert any(f"{one}_2CH_ED and {other}_2CH_ED" in n for n in _converted(camus)[1])


def test_swapped_phases_are_noted(camus: Path) -> None:
    patient = _patients(camus, "training")[0]
    folder = camus / "database_nifti" / patient
    for path in list(folder.glob("*_ED*.nii.gz")):
        other = path.with_name(path.name.replace("_ED", "_ES"))
        aside = path.with_name("aside")
        path.rename(aside), other.rename(path), aside.rename(other)  # type: ignore[func-returns-value]
    (note,) = _converted(camus)[1]
    assert f"1 patient(s) is larger at ES than at ED in every view: {patient};" in note


def test_directions_that_differ_are_noted_where_they_are_not_followed() -> None:
    one, other = np.eye(3, 2), -np.eye(3, 2)
    seen = [
        Seen.of(
            f"c{i}",
            f"p{i}",
            "v",
            "f",
            "train",
            Image2D(np.full((2, 2), i), (1, 1), d),
            Image2D(np.ones((2, 2)), (1, 1)),
        )
        for i, d in enumerate((one, other))
    ]
    (note,) = notes_of(seen, hearts=False, followed=False)
    assert "2 different directions" in note
    assert notes_of(seen[:1], hearts=False, followed=False) == []


def test_a_sector_without_black_around_it_is_refused(camus: Path) -> None:
    path = next(camus.glob("database_nifti/*/*_2CH_ED.nii.gz"))
    image = nib.load(path)
    pixels = np.maximum(np.asarray(image.dataobj), 2).astype(np.uint8)  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(pixels, image.affine, image.header), path)  # type: ignore[attr-defined]
    with pytest.raises(
        DataError, match=r"2CH_ED.nii.gz: no black .0. surrounds the sector, its darkest grey level is 2"
    ):
        _converted(camus)


def test_pixel_sizes_that_contradict_each_other_are_refused(camus: Path) -> None:
    path = next(camus.glob("database_nifti/*/*_2CH_ED.nii.gz"))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[80:88] = struct.pack("<2f", 0.5, 0.5)  # pixdim, columns and rows
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match=r"\(pixdim\) and of .* \(sform\)"):
        _converted(camus)


def test_only_what_the_phantom_made_counts_as_simulated(camus: Path) -> None:
    simulated, _ = _converted(camus)
    shutil.copytree(camus / "database_nifti", camus / "CAMUS" / "database_nifti")
    shutil.copytree(camus / "database_split", camus / "CAMUS" / "database_split")
    real, _ = _converted(camus / "CAMUS", 502)
    licences = [d.path.joinpath("settings.json").read_text().count("Apache") for d in (simulated, real)]
    assert licences == [1, 0]


def test_a_validation_patient_without_images_is_replaced(camus: Path) -> None:
    (patient,) = _patients(camus, "validation")
    for path in (camus / "database_nifti" / patient).glob("*.nii.gz"):
        path.unlink()
    dataset, notes = _converted(camus, allow_missing=True)
    assert "val" in set(dataset.cases()["split"])
    assert any("every tenth training patient" in n for n in notes)


def test_some_patients_need_only_themselves_to_be_complete(camus: Path) -> None:
    chosen = {c.case.id.patient for c in convert.plan(camus, None, allow_missing=False, patients=3).jobs}
    other = next(p for p in _patients(camus, "training") if p not in chosen)
    next((camus / "database_nifti" / other).glob("*_2CH_ED.nii.gz")).unlink()
    assert {c.case.id.patient for c in convert.plan(camus, None, allow_missing=False, patients=3).jobs} == chosen
    with pytest.raises(DataError, match="--allow-missing"):
        convert.plan(camus, None, allow_missing=False)


@pytest.mark.parametrize("way", ["dot", "link"])
def test_the_split_beside_the_database_is_found_whatever_the_name(
    camus: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(camus / "database_nifti")
    link = camus.parent / "link"
    link.symlink_to(camus / "database_nifti")
    plan = convert.plan(Path() if way == "dot" else link, None, allow_missing=False)
    assert Path(plan.split_source).resolve() == camus / "database_split"


def test_two_datasets_of_one_id_do_not_begin_at_once(camus: Path) -> None:
    from echo_synth.folders import new_folder

    target = nnunet_raw.target(510, "A", False, convert.MADE_BY)
    with new_folder(target, convert.MADE_BY, overwrite=False):
        with pytest.raises(ExistsError, match=r"dataset id 510 is taken by .*Dataset510_A"):
            nnunet_raw.target(510, "B", False, convert.MADE_BY)
        with pytest.raises(ExistsError, match="dataset id 510 is taken by"):
            nnunet_raw.check_alone(target.with_name("Dataset510_B"))
        nnunet_raw.check_alone(target)
        assert nnunet_raw.next_free_id(510) == 511
    assert nnunet_raw.being_made(510) == []
    with pytest.raises(ExistsError, match="; choose another --dataset-id, or pass --overwrite"):
        nnunet_raw.target(510, "A", False, convert.MADE_BY)
