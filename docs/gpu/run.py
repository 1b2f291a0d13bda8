"""A first quarter of an hour on a GPU: install, check, time and train, in at most nine minutes.

    python docs/gpu/run.py --out OUT [--parcel PARCEL.tar.xz] [--minutes 9]
    python docs/gpu/run.py --out OUT --device cpu --quick     # the same code, smallest sizes, on any machine

OUT/results.jsonl gets every figure when it is known, OUT/logs what each section printed. A section that would end late is
skipped and says so. README.md beside this file tells what to expect.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from book import Book, rows

ROOT = Path(__file__).resolve().parents[2]
REAL, DRAWN = 501, 601  # ids of datasets
TRAINER = "nnUNetTrainerEchoSynth"
_RESERVE = 3.0  # seconds to end in


@dataclass(frozen=True)
class Section:
    """Commands, one after the other.

    Attributes:
        seconds: it is not begun with less time left, and ended after `limit`.
        limit: seconds; also of what is left.
    """

    name: str
    seconds: float
    limit: float
    commands: Sequence[Sequence[str]]


@dataclass
class Session:
    """One run of all sections.

    Args:
        book: where figures go.
        work: folder for datasets and runs, which may be thrown away.
        device: auto, cpu or cuda.
        quick: smallest sizes.
    """

    book: Book
    work: Path
    device: str
    quick: bool
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        site = self.work / "site"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
        paths = [str(site), str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
        self.environment = kept | {
            "PYTHONPATH": os.pathsep.join(paths),
            "ECHOSYNTH_HOME": str(self.work / "home"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "compiled"),
            "PYTHONUNBUFFERED": "1",
            "nnUNet_compile": "f",  # takes longer than it saves here
        }

    @property
    def runs(self) -> Path:
        return self.work / "home" / "runs"

    def unpack(self, parcel: Path) -> None:
        """Packages and data of `pack.py`."""
        with tarfile.open(parcel) as opened:
            opened.extractall(self.work, filter="data")
        self.book.add("parcel", state="unpacked", mib=parcel.stat().st_size / 2**20)

    def run(self, section: Section) -> bool:
        """Whether all its commands ended well."""
        if not self.book.has(section.name, section.seconds + _RESERVE):
            return False
        begun, busy, log = self.book.left, _children_seconds(), self.book.out / "logs" / f"{section.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        state = "done"
        with open(log, "wb") as output:
            for command in section.commands:
                limit = self.book.left - _RESERVE
                if not self.quick:  # beside other work smallest sizes may take any time
                    limit = min(limit, section.limit - (begun - self.book.left))
                status = self._command(command, max(1.0, limit), output.fileno())
                if status:
                    state = "out of time" if status == -signal.SIGKILL else f"failed with status {status}"
                    break
        taken = {"seconds": begun - self.book.left, "cpu_seconds": _children_seconds() - busy}
        self.book.add(section.name, state=state, **taken)
        if state != "done":
            print(log.read_text(encoding="utf-8", errors="replace")[-1500:], flush=True)
        return state == "done"

    def _command(self, command: Sequence[str], limit: float, output: int) -> int:
        """Exit status; -SIGKILL after `limit` seconds, when it and all that it started are ended."""
        os.write(output, f"$ {' '.join(command)}\n".encode())
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=self.environment, cwd=ROOT, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def ours(self, command: str, *options: object) -> list[str]:
        return [sys.executable, "-m", "cli.main", command, *map(str, options)]

    def on_device(self, command: str, *options: object) -> list[str]:
        return self.ours(command, *options, "--device", self.device)

    def data(self) -> Section:
        """Simulated patients, where no parcel brought data."""
        patients, source = 5 if self.quick else 24, self.work / "phantom"
        commands = [
            self.ours("phantom", source, "--patients", patients),
            self.ours(
                "convert-camus", source, "--dataset-id", REAL, "--name", "PHANTOM", "--split", source / "database_split"
            ),
            self.ours("make-maps", "--dataset-id", REAL, "--repeats", 1 if self.quick else 6),
        ]
        return Section("data", 20, 90, commands)

    def checks(self) -> Section:
        limit = self.book.left if self.quick else 200
        quick = ["--quick"] if self.quick else []
        options = [
            "--out",
            self.book.out,
            "--seconds",
            min(limit, self.book.left - _RESERVE),
            "--device",
            self.device,
            *quick,
        ]
        return Section("checks", 15, limit + 10, [[sys.executable, "docs/gpu/checks.py", *map(str, options)]])

    def suite(self) -> Section:
        # That file alone: others need packages that only a developer's machine has.
        return Section(
            "suite", 20, 60, [[sys.executable, "-m", "pytest", "-q", "tests/test_gpu.py", "-p", "no:cacheprovider"]]
        )

    def throughput(self) -> Section:
        """Images/s against NFE, the paper's figure 4."""
        small = ["--models", "edm-l64", "--nfe", "1,2", "--batch", 1, "--repeats", 1]
        large = ["--size", "paper", "--batch", 16, "--repeats", 3]
        options = [*(small if self.quick else large), "--out", self.book.out / "benchmark", "--overwrite"]
        return Section("throughput", 10, 70, [self.on_device("benchmark", *options)])

    def train(self) -> Section:
        """A Γ-VAE, an EDM-L64 in its latents, a dataset and a picture of it."""
        vae, edm = self.runs / "vae", self.runs / "edm"
        lengths = ([], [8, 4, 8, 4]) if self.quick else (["--size", "small"], [6000, 16, 60000, 64])
        size, (vae_images, vae_batch, images, batch) = lengths
        chosen = ["--model", "edm-l64", "--checkpoint", edm]
        nfe, count = (2, 16) if self.quick else (20, 2048)
        commands = [
            self.on_device(
                "train-vae",
                "--model",
                "gamma-vae-64",
                *size,
                "--dataset-id",
                REAL,
                "--images",
                vae_images,
                "--batch",
                vae_batch,
                "--perceptual",
                "none",
                "--decoder-finish",
                vae_images // 8,
                "--out",
                vae,
            ),
            self.on_device(
                "train",
                "--model",
                "edm-l64",
                *size,
                "--dataset-id",
                REAL,
                "--images",
                images,
                "--batch",
                batch,
                "--copies",
                1,
                "--vae",
                vae,
                "--out",
                edm,
            ),
            self.on_device(
                "generate",
                *chosen,
                "--nfe",
                nfe,
                "--count",
                count,
                "--batch",
                8 if self.quick else 256,
                "--dataset-id",
                DRAWN,
            ),
            self.on_device(
                "sample-grid",
                *chosen,
                "--dataset-id",
                REAL,
                "--nfe",
                nfe,
                "--count",
                2 if self.quick else 4,
                "--out",
                self.book.out / "grid.png",
                "--overwrite",
            ),
        ]
        return Section("train", 25, 170, commands)

    def ranks(self) -> Section:
        """Two processes train together."""
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "cli.main"]
        lengths = ["--images", 8 if self.quick else 4096, "--batch", 4 if self.quick else 128, "--copies", 1]
        places = ["--vae", self.runs / "vae", "--out", self.runs / "two"]
        size = [] if self.quick else ["--size", "small"]
        options = [
            "train",
            "--model",
            "edm-l64",
            *size,
            "--dataset-id",
            REAL,
            *lengths,
            *places,
            "--device",
            self.device,
        ]
        return Section("ranks", 15, 60, [[*launch, *map(str, options)]])

    def nnunet(self) -> Section:
        """nnU-Net on the drawn images."""
        trainer = f"{TRAINER}_smoke" if self.quick else TRAINER
        lengths = [] if self.quick else ["--epochs", 1, "--iterations", 100]
        return Section(
            "nnunet",
            30,
            100,
            [self.on_device("train-segmenter", "--dataset-id", DRAWN, "--trainer", trainer, *lengths)],
        )

    def sections(self) -> Iterator[Section]:
        """In order; what comes later asks what came before."""
        if not list((self.work / "home").glob("nnunet/raw/Dataset501_*")):
            yield self.data()
        yield self.checks()
        machine = next((r for r in rows(self.book.out) if r["section"] == "machine" and "torch" in r), {})
        if "devices" in machine:  # its tests need a GPU
            yield self.suite()
        yield self.throughput()
        yield self.train()
        if "devices" not in machine or machine["devices"] > 1:  # two processes of a CPU need no second one
            yield self.ranks()
        yield self.nnunet()

    def keep(self) -> None:
        """Small files that tell of the trainings."""
        for name in ("vae", "edm", "two"):
            if (self.runs / name / "history.csv").is_file():
                shutil.copy(self.runs / name / "history.csv", self.book.out / f"{name}_history.csv")
        for file in (self.work / "home" / "nnunet").glob(f"raw/Dataset{DRAWN}_*/preview.png"):
            shutil.copy(file, self.book.out / "preview.png")
        for file in (self.work / "home" / "nnunet").glob("results/*/*/fold_*/training_log*.txt"):
            for seconds in re.findall(r"Epoch time: ([0-9.]+) s", file.read_text(errors="replace")):
                self.book.add("nnunet", epoch_seconds=float(seconds))


SECTIONS = ("checks", "suite", "throughput", "train", "ranks", "nnunet")  # data are made where there are none


def _children_seconds() -> float:
    """CPU time of all that was started and has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; new or empty")
    parser.add_argument(
        "--parcel", type=Path, help="what pack.py wrote; without, packages are here and patients are simulated"
    )
    parser.add_argument("--work", type=Path, help="folder for datasets and runs; default: a temporary one")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--device", default="cuda", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="smallest sizes")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="default: all")
    arguments = parser.parse_args()
    if arguments.out.is_dir() and any(arguments.out.iterdir()):
        parser.error(f"--out {arguments.out}: is not empty; choose a new folder")
    arguments.out.mkdir(parents=True, exist_ok=True)
    book = Book(arguments.out.resolve(), 60 * arguments.minutes)
    with tempfile.TemporaryDirectory() as temporary:
        session = Session(book, (arguments.work or Path(temporary)).resolve(), arguments.device, arguments.quick)
        if arguments.parcel:
            session.unpack(arguments.parcel)
        chosen = (s for s in session.sections() if s.name in arguments.sections or s.name not in SECTIONS)
        good = [session.run(section) for section in chosen]
        session.keep()
    book.add("end", sections=len(good), done=sum(good), seconds=book.seconds - book.left)
    failed = [r for r in rows(book.out) if r.get("state") not in (None, "done", "unpacked", "skipped")]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
