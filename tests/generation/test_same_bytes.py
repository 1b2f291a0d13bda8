"""Stored numbers: the images that the bundled weights draw, pixel for pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cli.generate_commands import generate
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import read_image

pytestmark = pytest.mark.slow

# Of generate --model edm-l64 --nfe 10 --count 8 --precision fp32 --seed 0, bundled weights and maps.
BLOCKS = Path(__file__).with_name("eight_images.png")  # means of 8 x 8 pixels, the images side by side
# By the processor's vendor: libraries choose their kernels by it, and other kernels add up in another order. Read on an AMD EPYC
# alone; on an Intel Xeon the means of blocks are compared.
SHA256 = {"AuthenticAMD": "beebd130bfdc474a29a132a0db2c3d5010e2d03974391dd4c79528da76236774"}
CPU, TORCH = "AVX512", "2.15"


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_eight_images_of_the_bundled_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSYNTH_HOME", str(tmp_path))
    generate("edm-l64", 10, count=8, precision="fp32", seed=0, dataset_id=611)
    folder = nnunet_raw.find(611).path
    rows = pd.read_parquet(folder / "manifest.parquet").sort_values("index")
    images = np.stack([read_image(folder / "imagesTr" / f"{name}_0000.nii.gz").pixels for name in rows["image"]])
    stored = np.asarray(Image.open(BLOCKS), float).reshape(32, 8, 32).swapaxes(0, 1)
    assert (
        np.abs(images.reshape(8, 32, 8, 32, 8).mean((2, 4)) - stored).max() <= 1
    )  # grey levels; rounding is 0.5 of it
    if torch.backends.cpu.get_cpu_capability() == CPU and torch.__version__.startswith(TORCH) and _vendor() in SHA256:
        assert hashlib.sha256(images.tobytes()).hexdigest() == SHA256[_vendor()]


def _vendor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
