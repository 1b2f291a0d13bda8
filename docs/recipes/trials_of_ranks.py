"""Trials of several processes from outside: one of them is killed at random moments, again and again.

    python docs/recipes/trials_of_ranks.py training --dataset-id 501 --kills 10 --images 960 --out FOLDER
    python docs/recipes/trials_of_ranks.py generation --kills 10 --count 1600 --out FOLDER

`training` uses the dataset of that id in ECHOSYNTH_HOME and the bundled Γ-VAE: EDM-L64 tiny under torchrun with two processes, of
which one gets SIGKILL; the others must end by themselves, and --resume goes on. `generation` draws two shards with the bundled weights at
the same time. Both must end in the bytes of an unbroken run; status 1 where they do not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from echo_synth import specs

VAE = specs.root() / "bundled/gamma-vae-64"
STATE = "state.safetensors"
WITHIN = 120.0  # seconds in which a group must end that has lost a process
_CHANGES = ("settings.json", "timing.json", "echosynth.json")  # hold hours or the names of processes


def ranks_of(launcher: int) -> list[int]:
    """Processes that torchrun has started, by the RANK in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdecimal() or f"\nPPid:\t{launcher}\n" not in (entry / "status").read_text():
                continue
            if b"RANK=" in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return sorted(found)


def start(log: Path, *command: object, **more: str) -> subprocess.Popen[bytes]:
    with open(log, "ab") as file:
        words = [sys.executable, "-m", *map(str, command)]
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=os.environ | more)


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait():
        sys.exit(f"failed with status {process.returncode}:\n{log.read_text()[-2000:]}")


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob(pattern)) if p.is_file() and p.name not in _CHANGES]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def training(out: Path, dataset: int, kills: int, images: int) -> bool:
    """Kill one rank at a time; compare the weights with those of a training that nobody disturbed."""
    launcher = ("torch.distributed.run", "--nproc_per_node=2", "--master_port=29717", "-m", "cli.main", "train")
    settings = ("--model", "edm-l64", "--vae", VAE, "--dataset-id", dataset, "--images", images, "--device", "cpu")
    begun = time.monotonic()
    finish(start(out / "whole.txt", *launcher, *settings, "--out", out / "whole"), out / "whole.txt")
    whole = time.monotonic() - begun
    draw, broken = random.Random(0), out / "broken"
    for i in range(kills):
        resume = ("--resume",) if (broken / STATE).is_file() else ("--overwrite",) if broken.exists() else ()
        group = start(out / "broken.txt", *launcher, *settings, "--out", broken, *resume)
        moment = time.monotonic() + draw.uniform(0, whole * 0.4)  # into start-up, latents, steps and saving alike
        while time.monotonic() < moment and group.poll() is None:
            time.sleep(0.01)
        ranks = ranks_of(group.pid)
        if not ranks or group.poll() is not None:
            if group.poll() == 0:
                print(f"ended after {i} kills; take more --images")
                return False
            print(f"kill {i}: no rank yet; all killed", flush=True)
            group.kill()
            group.wait()
            continue
        number = draw.randrange(len(ranks))
        os.kill(ranks[number], signal.SIGKILL)
        begun = time.monotonic()
        try:
            status = group.wait(WITHIN)
        except subprocess.TimeoutExpired:
            print(f"kill {i}: the others still ran {WITHIN:.0f} s after rank {number} was killed")
            return False
        print(f"kill {i}: rank {number}; all ended {time.monotonic() - begun:.1f} s later, status {status}", flush=True)
        if status == 0:
            return False
    finish(start(out / "broken.txt", *launcher, *settings, "--out", broken, "--resume"), out / "broken.txt")
    one, other = (hashes(f, "*.safetensors") for f in (out / "whole", broken))
    print(f"{len(one)} files of weights and states: {'same' if one == other else 'DIFFERENT'}")
    return one == other and len(one) > 1


def generation(out: Path, kills: int, count: int) -> bool:
    """Two shards at the same time, one of them killed at a time; compare with one process's dataset."""
    command = ("cli.main", "generate", "--model", "edm-l64", "--nfe", 4, "--count", count, "--dataset-id", 611)
    homes = {name: {"ECHOSYNTH_HOME": str(out / name)} for name in ("whole", "broken")}
    begun = time.monotonic()
    finish(start(out / "whole.txt", *command, "--processes", 1, **homes["whole"]), out / "whole.txt")
    whole, draw = time.monotonic() - begun, random.Random(0)
    shards = [start(out / f"shard{i}.txt", *command, "--shard", f"{i}/2", **homes["broken"]) for i in range(2)]
    for i in range(kills):
        time.sleep(draw.uniform(0, 2 * whole / kills))
        running = [number for number, shard in enumerate(shards) if shard.poll() is None]
        if not running:
            print(f"ended after {i} kills; take more --count")
            return False
        number = draw.choice(running)
        print(f"kill {i}: shard {number}", flush=True)
        shards[number].kill()
        shards[number].wait()
        log = out / f"shard{number}.txt"
        shards[number] = start(log, *command, "--shard", f"{number}/2", **homes["broken"])
    for number, shard in enumerate(shards):
        finish(shard, out / f"shard{number}.txt")
    one, other = (hashes(out / name / "nnunet/raw", "*") for name in homes)
    print(f"{len(one)} files: {'same' if one == other else sorted(set(one.items()) ^ set(other.items()))[:5]}")
    return one == other and len(one) > count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=["training", "generation"])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--dataset-id", type=int, default=501)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--count", type=int, default=1600)
    a = parser.parse_args()
    a.out.mkdir(parents=True)
    good = (
        training(a.out, a.dataset_id, a.kills, a.images)
        if a.trial == "training"
        else generation(a.out, a.kills, a.count)
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
