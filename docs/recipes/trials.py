"""Trials of `echosynth generate` from outside, with the bundled weights: kills, memory, splitting, a full disk.

    python docs/recipes/trials.py kills --count 300 --kills 20 --home FOLDER
    python docs/recipes/trials.py memory --counts 100 1000 5000 --home FOLDER
    python docs/recipes/trials.py split --count 48 --home FOLDER
    python docs/recipes/trials.py full-disk --home FOLDER ON A SMALL FILE SYSTEM

Each prints what it found and ends with status 1 where it does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from echo_synth.data.nifti import read_image

# Which hold times, or the order in which processes came.
UNSTABLE = ("settings.json",)
COMMAND = [str(Path(sys.executable).with_name("echosynth")), "generate", "--model", "edm-l64"]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    return kept | {"ECHOSYNTH_HOME": str(home)}


def start(home: Path, *options: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*launcher, *COMMAND, *map(str, options)],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(home: Path, *options: object, launcher: tuple[str, ...] = ()) -> str:
    process = start(home, *options, launcher=launcher)
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"generate {' '.join(map(str, options))} failed:\n{output[-600:]}")
    return output


def raw(home: Path, dataset_id: int) -> Path:
    return next((home / "nnunet/raw").glob(f"Dataset{dataset_id}_*"))


def digest(home: Path, dataset_id: int) -> dict[str, str]:
    """Every file of the dataset and of its classification copy, but those that hold the hour; manifests by content."""
    folders = [raw(home, dataset_id), home / "datasets/classification" / raw(home, dataset_id).name]
    files = [p for f in folders for p in sorted(f.rglob("*")) if p.is_file() and p.name not in UNSTABLE]
    return {
        f"{i}/{p.relative_to(f)}": hashlib.sha256(p.read_bytes()).hexdigest()
        for i, f in enumerate(folders)
        for p in files
        if p.is_relative_to(f)
    }


def images_of(home: Path, dataset_id: int) -> int:
    return len(list((home / "nnunet/raw").glob(f"Dataset{dataset_id}_*/imagesTr/*.nii.gz")))


def kills(home: Path, count: int, number: int, nfe: int) -> bool:
    """Kill -9 at random moments, resume each time; compare with an unbroken run."""
    options = ("--nfe", nfe, "--count", count, "--seed", 5)
    begun = time.monotonic()
    finish(home, *options, "--dataset-id", 611)
    whole = time.monotonic() - begun
    moments = random.Random(0)
    done = []
    for i in range(number):
        process = start(home, *options, "--dataset-id", 612)
        if i % 5 == 0:  # some kills fall into the start
            time.sleep(moments.uniform(0.2, 5))
        else:  # most between two images, or inside one's files
            before = images_of(home, 612)
            while images_of(home, 612) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, whole / number))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done.append(images_of(home, 612))
    finish(home, *options, "--dataset-id", 612)
    same = digest(home, 611) == digest(home, 612)
    rows = pd.read_parquet(raw(home, 612) / "manifest.parquet")
    print(
        f"images after each kill: {done}; {'same' if same else 'DIFFERENT'} {len(digest(home, 612))} files; "
        f"manifest {len(rows)} rows, {rows['image'].nunique()} images"
    )
    integrity = subprocess.run(
        [
            sys.executable,
            "-c",
            "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as v; "
            f"v({str(raw(home, 612))!r}, num_processes=2)",
        ],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    print("nnU-Net's integrity check:", "passes" if not integrity.returncode else integrity.stderr[-300:])
    return same and not integrity.returncode and rows["image"].nunique() == len(rows) == count


def memory(home: Path, counts: list[int], nfe: int) -> bool:
    """Peak resident memory of one process against the number of images."""
    peaks = []
    for i, count in enumerate(counts):
        process = start(home, "--nfe", nfe, "--count", count, "--dataset-id", 620 + i)
        assert process.stdout is not None
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"generate --count {count} failed")
        peaks.append(usage.ru_maxrss / 1024)
        print(f"{count} images: peak {peaks[-1]:.0f} MiB", flush=True)
    return max(peaks) < 1.05 * min(peaks)


def largest_difference(home: Path, one: int, other: int) -> int:
    """Grey levels between the images of two datasets."""
    pairs = [(p, raw(home, other) / "imagesTr" / p.name) for p in sorted((raw(home, one) / "imagesTr").iterdir())]
    return max(int(np.abs(read_image(a).pixels.astype(int) - read_image(b).pixels).max()) for a, b in pairs)


def split(home: Path, count: int, nfe: int) -> bool:
    """Batches, shards and processes: same dataset."""
    options = ("--nfe", nfe, "--count", count, "--seed", 1)
    good = True
    finish(home, *options, "--dataset-id", 631)
    for i, batch in enumerate((1, 3)):
        for j, precision in enumerate(("fp32", "bf16")):
            finish(home, *options, "--dataset-id", 640 + 10 * j, "--precision", precision)
            finish(home, *options, "--dataset-id", 641 + 10 * j + i, "--batch", batch, "--precision", precision)
            found = largest_difference(home, 640 + 10 * j, 641 + 10 * j + i)
            print(f"batch {batch} against 8, {precision}: images differ by at most {found} grey levels", flush=True)
            good &= precision != "fp32" or found <= 1
    for part in ("1/2", "0/2"):
        finish(home, *options, "--dataset-id", 632, "--shard", part)
    torchrun = (str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node=2", "--no-python")
    finish(home, *options, "--dataset-id", 633, launcher=torchrun)
    for dataset_id, name in ((632, "two shards"), (633, "torchrun, two processes")):
        same = digest(home, dataset_id) == digest(home, 631)
        print(f"{name}: {'same bytes' if same else 'DIFFERENT'}", flush=True)
        good &= same
    return good


def full_disk(home: Path, count: int, nfe: int) -> bool:
    """Fill the file system, see the message, make space, resume."""
    options = ("--nfe", nfe, "--count", count, "--dataset-id", 661)
    ballast = home / "ballast"
    free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
    ballast.write_bytes(bytes(free - (1 << 20)))
    process = start(home, *options)
    output, _ = process.communicate()
    print("disk full:", re.sub(r"\s+", " ", output)[-260:])
    stopped = process.returncode == 1 and "space" in output
    ballast.unlink()
    finish(home, *options)
    finish(home, *options[:4], "--dataset-id", 662)
    same = digest(home, 661) == digest(home, 662)
    print(f"after space was made: {'same bytes as an unbroken run' if same else 'DIFFERENT'}")
    return stopped and same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=["kills", "memory", "split", "full-disk"])
    parser.add_argument("--home", type=Path, required=True, help="folder for the datasets; empty or new")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--nfe", type=int, default=10)
    a = parser.parse_args()
    a.home.mkdir(parents=True, exist_ok=True)
    trials = {
        "kills": lambda: kills(a.home, a.count, a.kills, a.nfe),
        "memory": lambda: memory(a.home, a.counts, a.nfe),
        "split": lambda: split(a.home, a.count, a.nfe),
        "full-disk": lambda: full_disk(a.home, a.count, a.nfe),
    }
    sys.exit(0 if trials[a.trial]() else 1)


if __name__ == "__main__":
    main()
