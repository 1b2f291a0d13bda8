"""Phantom patients on disk, in the layout, file types and cfg fields of either CAMUS release."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from echo_synth import checksums, specs
from echo_synth.errors import SpecError
from echo_synth.files import write_json
from echo_synth.folders import mark, new_folder
from echo_synth.parallel import parallel_map
from echo_synth.phantom.anatomy import Heart, contract, draw_heart, draw_pose, volume_ml
from echo_synth.phantom.scene import QUALITIES, SPACING_MM, Quality, render
from echo_synth.progress import track
from echo_synth.types import PHASES, VIEWS

MADE_BY = "phantom"
RELEASES = ("nifti", "mhd")


def patient_name(number: int) -> str:
    """patient0001 for 1."""
    return f"patient{number:04d}"


def phantom_case(
    seed: int, number: int, view: str, phase: str
) -> tuple[NDArray[np.float32], NDArray[np.uint8], Heart, Quality]:
    """Image, mask, heart and quality of one case; depends on (seed, number, view, phase) only."""
    # Counted from 1: numpy takes a key that ends in zeros for the shorter one, and the heart would decide on pose and grain.
    of_view, of_phase = VIEWS.index(view) + 1, PHASES.index(phase) + 1
    person = np.random.default_rng([seed, number])
    heart = draw_heart(person)
    look = np.random.default_rng([seed, number, of_view])
    pose = draw_pose(look, heart, view)
    quality = QUALITIES[int(look.choice(3, p=[0.45, 0.4, 0.15]))]
    grain = np.random.default_rng([seed, number, of_view, of_phase])
    image, mask = render(heart, pose, view, phase == "ES", quality, grain)
    return image, mask, heart, quality


def _write_patient(number: int, folder: Path, seed: int, release: str) -> None:
    name = patient_name(number)
    (folder / name).mkdir()
    record = np.random.default_rng([seed, number, 99])
    sex, age, frames = str(record.choice(["F", "M"])), int(record.integers(25, 90)), int(record.integers(12, 30))
    for view in VIEWS:
        for phase in PHASES:
            image, mask, heart, quality = phantom_case(seed, number, view, phase)
            stem = folder / name / f"{name}_{view}_{phase}"
            _write_image(stem, image, release)
            _write_image(stem.with_name(stem.name + "_gt"), mask, release)
        cfg = {"ED": 1, "ES": frames, "NbFrame": frames, "Sex": sex, "Age": age, "ImageQuality": quality.name}
        text = "".join(f"{k}: {v}\n" for k, v in (cfg | _function_fields(heart, release)).items())
        (folder / name / f"Info_{view}.cfg").write_text(text, encoding="utf-8")


def _function_fields(heart: Heart, release: str) -> dict[str, float]:
    """Cfg fields of the heart's function: % and Hz, or ml and %.

    The ejection fraction is the heart's own, which the clinical convention of `metrics.volumes` gives back from the masks.
    CAMUS's convention gives 6 to 11 points less; the bundled maps were allotted by the heart's own, so it stays.
    """
    if release == "nifti":
        return {"EF": round(100 * heart.ef), "FrameRate": 50.0}
    edv, esv = volume_ml(heart), volume_ml(contract(heart))
    return {"LVedv": round(edv, 1), "LVesv": round(esv, 1), "LVef": round(100 * heart.ef, 1)}


def _write_image(stem: Path, pixels: NDArray[np.generic], release: str) -> None:
    if release == "nifti":
        image = sitk.GetImageFromArray(pixels.astype(np.float32) if "_gt" not in stem.name else pixels)
        image.SetSpacing((SPACING_MM, SPACING_MM))
        sitk.WriteImage(image, f"{stem}.nii.gz", useCompression=True)
        return
    doubled = np.repeat(pixels, 2, axis=0).astype(np.uint8)  # the older release samples depth twice as finely
    image = sitk.GetImageFromArray(doubled[None])
    image.SetSpacing((SPACING_MM, SPACING_MM / 2, SPACING_MM * 5))
    sitk.WriteImage(image, f"{stem}.mhd", useCompression=False)


def split_patients(count: int) -> dict[str, list[str]]:
    """80 % training, 10 % validation, 10 % testing; with three or more patients each split has at least one."""
    names = [patient_name(i + 1) for i in range(count)]
    held = max(1, round(count * 0.1)) if count >= 3 else 0
    train = count - 2 * held
    return {"train": names[:train], "val": names[train : train + held], "test": names[train + held :]}


def write_phantom(
    out: Path,
    patients: int,
    seed: int,
    release: str,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    workers: int | None = None,
) -> None:
    """Make OUT/database_nifti (or OUT/training for the mhd release) and OUT/database_split.

    `out` appears complete or not at all.

    Args:
        release: file layout, one of RELEASES.
        settings: written to settings.json.

    Raises:
        SpecError: an unknown release.
        ExistsError: `out` exists and may not be replaced.
        DataError: no space or no write permission.
    """
    if release not in RELEASES:
        raise SpecError(f"--release {release}: expected one of {', '.join(RELEASES)}")
    with new_folder(out.absolute(), MADE_BY, overwrite) as new:
        database = new / ("database_nifti" if release == "nifti" else "training")
        database.mkdir()
        work = partial(_write_patient, folder=database, seed=seed, release=release)
        numbers = list(range(1, patients + 1))
        for _ in track(parallel_map(work, numbers, workers), patients, "phantom", "patients"):
            pass
        (new / "database_split").mkdir()
        split = split_patients(patients)
        for name, file in specs.camus().split_files.items():
            (new / "database_split" / file).write_text("".join(f"{p}\n" for p in split[name]), encoding="utf-8")
        write_json(new / "settings.json", dict(settings))
        mark(new, MADE_BY)
        checksums.record(new)  # by which --overwrite tells what came later
