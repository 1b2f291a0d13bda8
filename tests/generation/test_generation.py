"""Synthetic datasets: bundled weights, one seed an image, kills, shards, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli.generate_commands import generate
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.maps import open_maps, read_map, write_map
from echo_synth.data.nifti import read_image
from echo_synth.data.tissues import sector_mask
from echo_synth.errors import EchoSynthError, ExistsError, LeakageError, RunError
from echo_synth.generation import writer
from echo_synth.generation.engine import ImageGenerator, default_settings, image_noise
from echo_synth.generation.manifest import plan_images
from echo_synth.runs.find import find_vae_of
from echo_synth.runs.folder import open_run
from tests.warm import Warm

pytestmark = pytest.mark.slow

BUNDLED = specs.root() / "bundled"
BUNDLED_MAPS = BUNDLED / "maps"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh machine: nothing but what the package ships."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _draw(dataset_id: int | None = 601, **options: object) -> None:
    generate("edm-l64", 2, **({"count": 10, "dataset_id": dataset_id, "batch": 4} | options))  # type: ignore[arg-type]


def _digest(folder: Path) -> dict[str, str]:
    """Hashes of what is drawn; what names the dataset and its settings, which differ in id, is left out."""
    named = ("settings.json", "manifest.parquet", "CARD.md", "SHA256SUMS")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in named]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _dataset(dataset_id: int = 601) -> Path:
    return nnunet_raw.find(dataset_id).path


def test_bundled_weights_are_small_and_fit() -> None:
    files = list((specs.root() / "bundled").rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= 8_000_000
    run = open_run(BUNDLED / "edm-l64", "diffusion")
    find_vae_of(run.description, "gamma-vae-64", run.folder).load()


def test_a_fresh_machine_gets_a_whole_dataset(empty: Path) -> None:
    _draw()
    folder = _dataset()
    assert folder.name == "Dataset601_EDM-L64_distilled_nfe2"  # of two evaluations the distilled weights make more
    rows = pd.read_parquet(folder / "manifest.parquet")
    assert len(rows) == 10
    assert rows["image"].is_unique
    for row in rows.to_dict("records"):
        image = read_image(folder / "imagesTr" / f"{row['image']}_0000.nii.gz")
        label = read_image(folder / "labelsTr" / f"{row['image']}.nii.gz")
        ids = read_map(BUNDLED_MAPS / f"{row['map']}.png")  # 5 to 7: anatomy beyond the sector, where the image is 0
        assert image.spacing == pytest.approx((row["spacing_row_mm"], row["spacing_column_mm"]))
        assert np.array_equal(label.pixels, np.where(ids == 4, 0, np.where(ids > 4, ids - 4, ids)))
        assert np.array_equal(sector_mask(image.pixels), (ids > 0) & (ids <= 4))
        picture = empty / "datasets/classification" / folder.name / row["split"] / row["view"] / f"{row['image']}.png"
        assert picture.is_file()
    fold = json.loads((folder / "splits_final.json").read_text())[0]
    assert not {c[:11] for c in fold["train"]} & {c[:11] for c in fold["val"]}
    assert {"preview.png", "cases.csv", "dataset.json"} <= {p.name for p in folder.iterdir()}
    assert not list(folder.glob(".partial*"))


def test_labels_hold_the_anatomy_beyond_the_sector(empty: Path) -> None:
    maps = Path(shutil.copytree(BUNDLED_MAPS, empty / "beyond"))
    changed = set(open_maps(maps).index["map"][::2])
    for name in changed:
        whole = read_map(maps / f"{name}.png").copy()
        whole[-10:] = np.where(whole[-10:] == 0, 6, whole[-10:])  # a wall where no image is
        write_map(maps / f"{name}.png", whole)
    _draw(maps=maps, count=10)
    dataset = nnunet_raw.RawDataset(_dataset())
    drawn = pd.read_parquet(dataset.path / "manifest.parquet")
    assert 0 < drawn["map"].isin(changed).sum() < 10
    for row in drawn.to_dict("records"):
        image = read_image(dataset.image_path(row["image"], "train")).pixels[-10:]
        label = read_image(dataset.label_path(row["image"], "train")).pixels[-10:]
        assert (label == 2).any() == (row["map"] in changed)
        assert image[label == 2].sum() == 0


def test_deleted_images_are_drawn_again_to_the_same_bytes(empty: Path) -> None:
    _draw()
    before = _digest(_dataset())
    for path in sorted((_dataset() / "imagesTr").iterdir())[1:6:2]:
        path.unlink()
    _draw()
    assert _digest(_dataset()) == before


def test_killed_runs_end_in_the_same_bytes(empty: Path, warm: Warm, tmp_path: Path) -> None:
    _draw(count=24)
    code = "from cli.generate_commands import generate as g; g('edm-l64', 2, count=24, dataset_id=602, batch=4)"
    for delay in (6, 8):
        with open(tmp_path / "output.txt", "ab") as output:
            process = warm.start(["-c", code], {}, output.fileno())
        images = nnunet_raw.nnunet_folder("nnUNet_raw") / "Dataset602_EDM-L64_nfe2" / "imagesTr"
        deadline = time.monotonic() + 60
        while (
            time.monotonic() < deadline
            and (not images.is_dir() or len(list(images.iterdir())) < delay)
            and process.poll() is None
        ):
            time.sleep(0.05)
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _draw(602, count=24)
    assert _digest(_dataset(602)) == _digest(_dataset(601))


def test_shards_make_the_same_dataset(empty: Path) -> None:
    _draw()
    for part in ("1/2", "0/2"):
        _draw(602, shard=part)
    assert _digest(_dataset(602)) == _digest(_dataset(601))


def test_the_batch_changes_rounding_only(empty: Path) -> None:
    for dataset_id, batch in ((601, 4), (602, 1), (603, 3)):
        _draw(dataset_id, batch=batch, precision="fp32", count=5)
    for other in (602, 603):
        for path in (_dataset(601) / "imagesTr").iterdir():
            a, b = (
                read_image(path).pixels.astype(int),
                read_image(_dataset(other) / "imagesTr" / path.name).pixels.astype(int),
            )
            assert np.abs(a - b).max() <= 1


def test_other_settings_are_refused_in_the_same_folder(empty: Path) -> None:
    _draw()
    with pytest.raises(ExistsError, match="was made with seed = 0, now 1"):
        _draw(seed=1)
    with pytest.raises(ExistsError, match="dataset id 601 is taken"):
        generate("edm-l64", 3, count=2, dataset_id=601)


def test_without_an_id_an_unfinished_dataset_goes_on(empty: Path) -> None:
    _draw(None)
    (_dataset(601) / "manifest.parquet").unlink()
    next((_dataset(601) / "imagesTr").iterdir()).unlink()
    _draw(None)
    assert not nnunet_raw.existing(602)
    _draw(None)
    assert len(nnunet_raw.existing(602)) == 1


def test_a_smaller_plan_is_the_start_of_a_larger_one() -> None:
    index = open_maps(BUNDLED_MAPS).index
    small, large = plan_images(index, 20, 3), plan_images(index, len(index) + 50, 3)
    assert small["case"].tolist() == large["case"].tolist()[:20]
    assert large["case"].is_unique
    assert plan_images(index, 20, 4)["case"].tolist() != small["case"].tolist()


def test_noise_depends_on_seed_and_index_only() -> None:
    assert np.array_equal(image_noise(3, 7, 16), image_noise(3, 7, 16))
    assert not np.array_equal(image_noise(3, 7, 16), image_noise(3, 8, 16))
    assert not np.array_equal(image_noise(3, 7, 16), image_noise(4, 7, 16))


def test_images_follow_their_maps() -> None:
    """The bundled model draws blood darker than muscle where the map says so."""
    run = open_run(BUNDLED / "edm-l64", "diffusion")
    vae = find_vae_of(run.description, "gamma-vae-64", run.folder)
    maps = open_maps(BUNDLED_MAPS)
    tissues = np.stack([maps.read(n) for n in maps.index["map"][:6]])
    views = np.asarray([int(v == "4CH") for v in maps.index["view"][:6]], np.uint8)
    generator = ImageGenerator(run.load(), vae.load(), "cpu", "fp32")  # type: ignore[arg-type]
    images = generator.draw(tissues, views, 0, range(6), default_settings("edm", 9, "heun")).astype(float)
    contrast = [image[t == 2].mean() - image[t == 1].mean() for image, t in zip(images, tissues, strict=True)]
    assert np.mean(contrast) > 15
    assert np.mean(np.array(contrast) > 0) >= 5 / 6


def test_held_out_maps_are_refused(empty: Path, tmp_path: Path) -> None:
    shutil.copytree(BUNDLED_MAPS, tmp_path / "maps")
    held = json.loads((tmp_path / "maps/held_out.json").read_text())
    index = pd.read_parquet(tmp_path / "maps/index.parquet")
    index.loc[3, "patient"] = held[0]
    index.to_parquet(tmp_path / "maps/index.parquet")
    with pytest.raises(LeakageError, match=held[0]):
        _draw(maps=tmp_path / "maps")
    assert not nnunet_raw.existing(601)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "2/2"}, "--shard 2/2"),
        ({"solver": "rk4"}, "--solver rk4"),
        ({"precision": "int4"}, "--precision int4"),
        ({"precision": "int8", "compiled": True}, "leave --compile out"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"maps": Path("/nowhere")}, "--maps expects"),
        ({"checkpoint": Path("/nowhere")}, "expected a run folder"),
        ({"dataset_id": 1000}, "1 to 999"),
    ],
)
def test_wrong_options_are_named_before_any_work(empty: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(EchoSynthError, match=message):
        _draw(**options)  # type: ignore[arg-type]
    assert not empty.exists()


def test_a_model_without_weights_says_how_to_get_them(empty: Path) -> None:
    with pytest.raises(RunError, match="run 'echosynth train --model vp"):
        generate("vp", 5, count=2)


def test_a_full_disk_is_named_and_resumes(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writer.write_image
    calls = 0

    def filling(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 7:
            raise OSError(28, "No space left on device")
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "write_image", filling)
    with pytest.raises(EchoSynthError, match="no space left"):
        _draw()
    monkeypatch.setattr(writer, "write_image", write)
    _draw()
    _draw(602)
    assert _digest(_dataset(601)) == _digest(_dataset(602))
    assert os.listdir(_dataset(601) / "imagesTr")
