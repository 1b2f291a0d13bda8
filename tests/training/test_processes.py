"""Training from the command line: two processes as one, and killed as unbroken."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from echo_synth.runs.folder import STATE
from echo_synth.runs.tensors import load_tensors

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]  # they share the unbroken trainings
ROOT = Path(__file__).parents[2]
VAE = ROOT / "data_specs" / "bundled" / "gamma-vae-64"
KINDS = {
    "vae": ["train-vae", "--model", "gamma-vae-64", "--images", "16", "--batch", "4", "--lr", "1e-5"],
    "diffusion": [
        "train",
        "--model",
        "edm-l64",
        "--vae",
        str(VAE),
        "--images",
        "48",
        "--batch",
        "8",
        "--copies",
        "1",
        "--lr",
        "1e-5",
        "--snapshots",
        "3",
    ],
}


def _start(home: Path, out: Path, kind: str, *more: str, processes: int = 1) -> subprocess.Popen[str]:
    launcher = [
        "torch.distributed.run",
        f"--nproc_per_node={processes}",
        f"--master_port={29500 + os.getpid() % 500}",
        "-m",
    ]
    command = [
        sys.executable,
        "-m",
        *(launcher if processes > 1 else []),
        "cli.main",
        *KINDS[kind],
        "--dataset-id",
        "501",
        "--out",
        str(out),
        "--precision",
        "fp32",
        "--device",
        "cpu",
        *more,
    ]
    environment = os.environ | {"ECHOSYNTH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def unbroken(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one training of each kind that is tested, by one process, without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    for kind in KINDS if os.environ.get("ECHOSYNTH_LONG") == "1" else ["diffusion"]:
        _finish(_start(converted, folder / kind, kind))
    return folder


def _losses(run: Path) -> pd.Series:
    history = pd.read_csv(run / "history.csv")
    return history.set_index(["images", "split", "name"])["value"]


@pytest.mark.parametrize(
    "kind", ["diffusion", pytest.param("vae", marks=pytest.mark.long)]
)  # the same loop trains both
def test_two_processes_learn_what_one_does(kind: str, home: Path, unbroken: Path, tmp_path: Path) -> None:
    _finish(_start(home, tmp_path / "two", kind, processes=2))
    one, two = _losses(unbroken / kind), _losses(tmp_path / "two")
    assert list(one.index) == list(two.index)
    assert two.to_numpy() == pytest.approx(one.to_numpy(), rel=2e-4)
    first, second = (load_tensors(run / "model.safetensors")[0] for run in (unbroken / kind, tmp_path / "two"))
    worst = max(float((first[k] - second[k]).abs().max()) for k in first)
    assert worst < 1e-4


def test_killed_at_random_and_resumed_it_ends_in_the_same_weights(home: Path, unbroken: Path, tmp_path: Path) -> None:
    whole = unbroken / "diffusion"
    draw = random.Random(1)
    for _ in range(2):  # test_training.py dies at every kind of moment, in one process
        resume = ("--resume",) if (tmp_path / "broken" / STATE).is_file() else ("--overwrite",)
        process = _start(home, tmp_path / "broken", "diffusion", *resume)
        give_up = time.monotonic() + 300
        while not (tmp_path / "broken" / STATE).is_file() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.05)  # from the first step on, however long a busy machine takes to come to it
        deadline = time.monotonic() + draw.uniform(0, 3)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    resume = ("--resume",) if (tmp_path / "broken" / STATE).is_file() else ("--overwrite",)
    _finish(_start(home, tmp_path / "broken", "diffusion", *resume))
    names = sorted(p.relative_to(whole) for p in whole.rglob("*.safetensors"))
    assert len(names) > 4
    for name in names:
        a, b = load_tensors(whole / name)[0], load_tensors(tmp_path / "broken" / name)[0]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name
    assert (_losses(whole) == _losses(tmp_path / "broken")).all()
