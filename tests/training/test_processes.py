"""Training from the command line: two processes as one, and killed as unbroken."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

from echo_synth.runs.folder import STATE
from echo_synth.runs.tensors import load_tensors
from tests.warm import Warm
from tests.warm.client import Started

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


@dataclass(frozen=True)
class Training:
    """A training on its way, and the file that its output goes to."""

    process: Started
    output: Path

    def finish(self) -> None:
        """Wait for its end, which must be a good one."""
        status = self.process.wait()
        assert status == 0, self.output.read_text()[-3000:]

    def kill(self) -> None:
        """At once, as a machine does that runs out of memory."""
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Trainer:
    """Starts trainings on the dataset of `home`."""

    warm: Warm
    home: Path

    def start(self, out: Path, kind: str, *more: str, processes: int = 1) -> Training:
        """A training into `out`, by torchrun where it is several processes."""
        port = f"--master_port={29500 + os.getpid() % 500}"
        launcher = ["torch.distributed.run", f"--nproc_per_node={processes}", port, "-m"] if processes > 1 else []
        settings = ["--dataset-id", "501", "--out", str(out), "--precision", "fp32", "--device", "cpu"]
        words = ["-m", *launcher, "tests.short", *KINDS[kind], *settings, *more]
        environment = {"ECHOSYNTH_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        output = out.with_suffix(".txt")
        with open(output, "ab") as file:
            return Training(self.warm.start(words, environment, file.fileno()), output)


@pytest.fixture
def trainer(warm: Warm, home: Path) -> Trainer:
    """Trainings on the shared home."""
    return Trainer(warm, home)


@pytest.fixture(scope="module")
def unbroken(converted: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one training of each kind that is tested, by one process, without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    for kind in KINDS if os.environ.get("ECHOSYNTH_LONG") == "1" else ["diffusion"]:
        Trainer(warm, converted).start(folder / kind, kind).finish()
    return folder


def _losses(run: Path) -> pd.Series:
    history = pd.read_csv(run / "history.csv")
    return history.set_index(["images", "split", "name"])["value"]


@pytest.mark.parametrize(
    "kind", ["diffusion", pytest.param("vae", marks=pytest.mark.long)]
)  # the same loop trains both
def test_two_processes_learn_what_one_does(kind: str, trainer: Trainer, unbroken: Path, tmp_path: Path) -> None:
    trainer.start(tmp_path / "two", kind, processes=2).finish()
    one, two = _losses(unbroken / kind), _losses(tmp_path / "two")
    assert list(one.index) == list(two.index)
    assert two.to_numpy() == pytest.approx(one.to_numpy(), rel=2e-4)
    first, second = (load_tensors(run / "model.safetensors")[0] for run in (unbroken / kind, tmp_path / "two"))
    worst = max(float((first[k] - second[k]).abs().max()) for k in first)
    assert worst < 1e-4


def test_killed_at_random_and_resumed_it_ends_in_the_same_weights(
    trainer: Trainer, unbroken: Path, tmp_path: Path
) -> None:
    whole = unbroken / "diffusion"
    draw = random.Random(1)
    for _ in range(2):  # test_training.py dies at every kind of moment, in one process
        resume = ("--resume",) if (tmp_path / "broken" / STATE).is_file() else ("--overwrite",)
        training = trainer.start(tmp_path / "broken", "diffusion", *resume)
        give_up = time.monotonic() + 300
        while (
            not (tmp_path / "broken" / STATE).is_file()
            and training.process.poll() is None
            and time.monotonic() < give_up
        ):
            time.sleep(0.05)  # from the first step on, however long a busy machine takes to come to it
        deadline = time.monotonic() + draw.uniform(0, 3)
        while time.monotonic() < deadline and training.process.poll() is None:
            time.sleep(0.05)
        training.kill()
    resume = ("--resume",) if (tmp_path / "broken" / STATE).is_file() else ("--overwrite",)
    trainer.start(tmp_path / "broken", "diffusion", *resume).finish()
    names = sorted(p.relative_to(whole) for p in whole.rglob("*.safetensors"))
    assert len(names) > 4
    for name in names:
        a, b = load_tensors(whole / name)[0], load_tensors(tmp_path / "broken" / name)[0]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name
    assert (_losses(whole) == _losses(tmp_path / "broken")).all()
