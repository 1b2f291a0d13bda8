"""Maps shown by simulated physics: the map's own fan and outlines, seeds, resume, shards, refusals."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from cli.generate_commands import generate
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.maps import open_maps
from echo_synth.data.nifti import read_image
from echo_synth.data.tissues import sector_mask
from echo_synth.phantom.map_scene import fit_fan, render_map

MAPS = specs.root() / "bundled" / "maps"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _draw(dataset_id: int = 601, **options: object) -> Path:
    generate("bmode", **({"maps": MAPS, "count": 10, "dataset_id": dataset_id} | options))  # type: ignore[arg-type]
    return nnunet_raw.find(dataset_id).path


def _digest(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "settings.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
def test_a_dataset_like_that_of_any_model(home: Path) -> None:
    raw = _draw()
    manifest = pd.read_parquet(raw / "manifest.parquet")
    assert len(manifest) == 10
    assert set(manifest["model"]) == {"bmode"}
    assert set(manifest["nfe"]) == {0}
    maps = open_maps(MAPS)
    for row in manifest.to_dict("records"):
        image = read_image(raw / f"imagesTr/{row['image']}_0000.nii.gz").pixels
        tissues = maps.read(row["map"])
        assert np.array_equal(sector_mask(image), tissues > 0)
        assert image[tissues == 1].mean() < image[np.isin(tissues, (2, 4))].mean()
    assert len(list((home / "datasets/classification" / raw.name).rglob("*.png"))) == 10


@pytest.mark.slow
def test_killed_and_sharded_is_the_same_as_in_one_go(home: Path) -> None:
    whole = _draw()
    before = _digest(whole)
    for lost in (*sorted((whole / "imagesTr").iterdir())[::3], whole / "manifest.parquet"):
        lost.unlink()
    assert _digest(_draw()) == before
    for shard in ("1/2", "0/2"):
        halves = _draw(602, shard=shard)
    assert {k: v for k, v in _digest(halves).items() if "images" in k} == {
        k: v for k, v in before.items() if "images" in k
    }
    other = _digest(_draw(603, seed=1))
    assert not set(other.values()) & {v for k, v in before.items() if "images" in k}


@pytest.mark.parametrize(
    ("model", "option", "value"),
    [
        ("bmode", "nfe", 5),
        ("bmode", "vae", Path("v")),
        ("bmode", "checkpoint", Path("c")),
        ("bmode", "texture", "on"),
        ("bmode", "solver", "heun"),
        ("edm-l64", "nfe", None),
    ],
)
def test_what_only_networks_have_is_refused_and_asked_for(home: Path, model: str, option: str, value: object) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        generate(model, **{"maps": MAPS, option: value})  # type: ignore[arg-type]
    assert raised.value.param_hint == f"--{option}"
    assert not home.exists()


def _fan(half_angle: float, tilt: float, spacing: tuple[float, float]) -> np.ndarray:
    down = np.arange(200)[:, None] * spacing[0] - 5
    across = (np.arange(240)[None] - 120) * spacing[1]
    return (np.hypot(down, across) <= 90) & (np.abs(np.arctan2(across, down) - tilt) <= half_angle)


@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.5, 0.7)])
@pytest.mark.parametrize(("half_angle", "tilt"), [(0.6, 0.0), (0.5, 0.1)])
def test_the_fan_is_found_again(half_angle: float, tilt: float, spacing: tuple[float, float]) -> None:
    fan = fit_fan(_fan(half_angle, tilt, spacing), spacing)
    assert fan.half_angle == pytest.approx(half_angle, abs=0.03)
    assert fan.middle == pytest.approx(tilt, abs=0.03)
    assert fan.apex == pytest.approx((5, 120 * spacing[1]), abs=1.5)
    assert fan.depth == pytest.approx(90, abs=1.5)


def test_any_sector_and_any_heart_gives_an_image() -> None:
    rng = np.random.default_rng(0)
    square = np.zeros((64, 64), np.uint8)
    square[5:60, 5:60] = 4
    dot, line = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    dot[30, 30], line[30, 10:20] = 1, 4
    for tissues in (square, dot, line, np.zeros((64, 64), np.uint8)):
        for view in ("2CH", "4CH"):
            image = render_map(tissues, (0.6, 0.6), view, "ED", rng)
            assert np.array_equal(image > 0, tissues > 0)
