"""The paper's six models on one GPU: each trained for the same time, images of each, a segmenter and a view classifier on these.

    python docs/gpu/six_models.py --out OUT --home ECHOSYNTH_HOME --rates RESULTS.jsonl --seconds 20 --minutes 7

ECHOSYNTH_HOME holds the converted dataset 501, its maps, and runs/gamma-vae-64 and runs/gamma-vae-128. --rates is what
`checks.py --parts rates` wrote: the images/s of each model by itself. A model trains on as many images as it does in --seconds, all at once:
what they take from each other does not count. Then the cells of the sweep `six-models` run side by side, the first of the list first.
What is not done in time is left out; a second call goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from book import Book, rows

ROOT = Path(__file__).resolve().parents[2]
DATASET = 501
TRAININGS = (("edm-l64", 0), ("edm", 0), ("sdm", 0), ("vp", 0), ("ve", 0), ("edm-l128", 0), ("edm-l64", 1), ("edm", 1))
CELLS = ("real", *(f"{model}_{seed}_nfe10_seed0" for model, seed in TRAININGS), "bmode", "noise")
SEGMENTERS = (0, 1)
KEPT = ("predict-*", "evaluate-*", "results.csv", "comparisons.csv", "cells.csv")
_RESERVE = 15.0  # seconds to pack in


@dataclass(frozen=True)
class Study:
    """Where it happens, and how long each model trains.

    Args:
        images: of each model's training.
        optimizer, lr: of all six.
        quick: smallest lengths.
    """

    book: Book
    home: Path
    device: str
    images: dict[str, int]
    optimizer: str
    lr: float
    spec: str
    quick: bool

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "cli.main", *map(str, words), "--device", self.device]

    def training(self, model: str, seed: int) -> list[str]:
        runs = self.home / "runs"
        vae = {"edm-l64": ["--vae", runs / "gamma-vae-64"], "edm-l128": ["--vae", runs / "gamma-vae-128"]}
        chosen = ["--optimizer", self.optimizer, "--lr", self.lr]
        short = ["--batch", 4, "--copies", 1] if self.quick else []
        length = ["--images", self.images[model], "--seed", seed, *short]
        run = runs / f"{model}_{seed}"
        begun = ["--resume"] if run.exists() else []
        where = ["--dataset-id", DATASET, "--out", run, *begun]
        return self.command("train", "--model", model, *where, *length, *chosen, *vae.get(model, []))

    def train(self, model: str, seed: int) -> bool:
        """Whether it is trained; an earlier call may have done it."""
        run = self.home / "runs" / f"{model}_{seed}"
        if not any(_finished(run)):
            return self.run(f"train {model}_{seed}", self.training(model, seed))
        trained = json.loads((run / "settings.json").read_text(encoding="utf-8"))["training"]
        wanted = {"images": self.images[model], "optimizer": self.optimizer, "lr": self.lr}
        if found := {name: trained[name] for name, value in wanted.items() if trained[name] != value}:
            sys.exit(f"{run}: was trained with {found}, asked for {wanted}; move it away, or ask for the same")
        return True

    def cell(self, name: str, segmenter: int) -> list[str]:
        return self.command("sweep", self.spec, "--only", f"{name}_train{segmenter}")

    def run(self, name: str, command: Sequence[str]) -> bool:
        """Whether it ended well, in time."""
        log = self.book.out / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        begun, limit = self.book.left, self.book.left - _RESERVE
        if limit <= 1:
            return False
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=ROOT,
                start_new_session=True,
            )
            try:
                status: int | str = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = "out of time"
                os.killpg(process.pid, 9)
                process.wait()
        state = "done" if status == 0 else f"status {status}"
        self.book.add("six", what=name, state=state, seconds=begun - self.book.left)
        if status:
            print(log.read_text(encoding="utf-8", errors="replace")[-1200:], flush=True)
        return status == 0

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
        paths = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
        few = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2", "nnUNet_compile": "f"}
        return kept | few | {"PYTHONPATH": paths, "ECHOSYNTH_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}

    def pack(self) -> None:
        """What tells of the study, small enough to be carried: weights, curves, predictions, evaluations."""
        with tarfile.open(self.book.out / "weights.tar", "w") as tar:
            for model, seed in TRAININGS:
                run = self.home / "runs" / f"{model}_{seed}"
                for file in _finished(run):
                    tar.add(file, f"{run.name}/{file.relative_to(run)}")
        with tarfile.open(self.book.out / "sweep.tar.gz", "w:gz") as tar:
            folder = self.home / "sweeps" / Path(self.spec).stem
            for found in (p for pattern in KEPT for p in sorted(folder.rglob(pattern))):
                tar.add(found, str(found.relative_to(folder)))


def _finished(run: Path) -> Iterator[Path]:
    """Files of a run without its training state."""
    if (run / "SHA256SUMS").is_file():
        yield from (f for f in sorted(run.iterdir()) if f.is_file() and not f.name.startswith("state"))


def lengths(results: Path, seconds: float, optimizer: str) -> dict[str, int]:
    """Images of each model in that many seconds of the GPU, a multiple of the batch."""
    known = [r for r in rows(results.parent) if r["section"] == "rates" and "images_per_second" in r]
    found = {r["model"]: r for r in known if r["optimizer"] == optimizer}
    if missing := {model for model, _ in TRAININGS} - set(found):
        need = f"checks.py --parts rates --optimizer {optimizer}"
        sys.exit(f"{results}: no rates of {', '.join(sorted(missing))}; run {need} first")
    return {m: max(1, round(seconds * r["images_per_second"] / r["batch"])) * r["batch"] for m, r in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True, help="ECHOSYNTH_HOME with dataset, maps and VAEs")
    parser.add_argument("--rates", type=Path, required=True, help="results.jsonl of checks.py --parts rates")
    parser.add_argument("--seconds", type=float, default=20, help="of the GPU, a training")
    parser.add_argument("--minutes", type=float, default=7, help="in all")
    parser.add_argument("--at-once", type=int, default=18, help="cells side by side")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw", help="of all six")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--spec", default="six-models.yaml", help="the sweep")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="smallest batches")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = lengths(arguments.rates, arguments.seconds, arguments.optimizer)
    book = Book(arguments.out.resolve(), 60 * arguments.minutes)
    book.add("six", what="lengths", seconds=arguments.seconds, **images)
    chosen = (arguments.optimizer, arguments.lr, arguments.spec, arguments.quick)
    study = Study(book, arguments.home.resolve(), arguments.device, images, *chosen)
    with ThreadPoolExecutor(1 if arguments.quick else len(TRAININGS)) as pool:
        trained = list(pool.map(lambda t: study.train(*t), TRAININGS))
    if not all(trained):  # the sweep needs every run that it names
        study.pack()
        sys.exit("not every model is trained; the same command goes on (its folders are kept)")
    cells = [(name, seed) for seed in SEGMENTERS for name in CELLS]
    with ThreadPoolExecutor(1 if arguments.quick else arguments.at_once) as pool:
        good = list(pool.map(lambda c: study.run(f"cell {c[0]}_seg{c[1]}", study.cell(*c)), cells))
    study.pack()
    book.add("end", cells=len(cells), done=sum(good), seconds=book.seconds - book.left)


if __name__ == "__main__":
    main()
