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

ROOT = Path(__file__).parents[2]
VAE = ROOT / "data_specs" / "bundled" / "gamma-vae-64"
KINDS = {
    "vae": ["train-vae", "--model", "gamma-vae-64", "--images", "32", "--batch", "4", "--lr", "1e-5"],
    "diffusion": [
        "train",
        "--model",
        "edm-l64",
        "--vae",
        str(VAE),
        "--images",
        "96",
        "--batch",
        "8",
        "--copies",
        "1",
        "--lr",
        "1e-5",
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


def _losses(run: Path) -> pd.Series:
    history = pd.read_csv(run / "history.csv")
    return history.set_index(["images", "split", "name"])["value"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_two_processes_learn_what_one_does(kind: str, home: Path, tmp_path: Path) -> None:
    _finish(_start(home, tmp_path / "one", kind))
    _finish(_start(home, tmp_path / "two", kind, processes=2))
    one, two = _losses(tmp_path / "one"), _losses(tmp_path / "two")
    assert list(one.index) == list(two.index)
    assert two.to_numpy() == pytest.approx(one.to_numpy(), rel=2e-4)
    first, second = (load_tensors(tmp_path / n / "model.safetensors")[0] for n in ("one", "two"))
    worst = max(float((first[k] - second[k]).abs().max()) for k in first)
    assert worst < 1e-4


def test_killed_at_random_and_resumed_it_ends_in_the_same_weights(home: Path, tmp_path: Path) -> None:
    more = ("--snapshots", "3")
    _finish(_start(home, tmp_path / "whole", "diffusion", *more))
    draw = random.Random(1)
    for _ in range(3):
        resume = ("--resume",) if (tmp_path / "broken" / STATE).is_file() else ("--overwrite",)
        process = _start(home, tmp_path / "broken", "diffusion", *more, *resume)
        deadline = time.monotonic() + draw.uniform(5, 12)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    resume = ("--resume",) if (tmp_path / "broken" / STATE).is_file() else ("--overwrite",)
    _finish(_start(home, tmp_path / "broken", "diffusion", *more, *resume))
    names = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.safetensors"))
    assert len(names) > 4
    for name in names:
        a, b = load_tensors(tmp_path / "whole" / name)[0], load_tensors(tmp_path / "broken" / name)[0]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name
    assert (_losses(tmp_path / "whole") == _losses(tmp_path / "broken")).all()
