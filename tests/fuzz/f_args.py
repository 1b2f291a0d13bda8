"""Command lines with values that options let through or should not; dry runs, which check everything and write nothing."""

from __future__ import annotations

import importlib
import os
import random
import sys
from pathlib import Path

import typer

from cli import main as entry
from cli.boundary import explain, is_memory
from echo_synth import specs
from echo_synth.errors import DataError
from tests.fuzz.harness import Kind

_NUMBERS = (
    "0",
    "1",
    "2",
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "501",
    "999",
    "1000",
    "601",
    "1e400",
    str(2**63),
    "9" * 30,
)
_WORDS = (
    *(
        "x",
        "a/b",
        "../x",
        "auto",
        "cpu",
        "cuda",
        "cuda:9",
        "meta",
        "mps",
        "tiny",
        "base",
        "edm-l64",
        "gamma-vae-64",
        "sdm",
    ),
    *(
        "1,2",
        ",",
        "1,x",
        "0/2",
        "3/2",
        "a=b",
        "NAME=",
        "=DIR",
        "%s%n",
        "ü ö",
        "-",
        "--",
        "n" * 300,
        "d/" * 2000 + "x",
        "\u202ertl",
    ),
    *("heun", "ddpm", "none", "efflite0", "slurm", "local", "smoke", "patient0001", "patient9999", "os.system"),
)


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """Every command with its required arguments, right or wrong, and a few options."""
    importlib.import_module("timm")  # takes long to import, before the clock runs
    commands = typer.main.get_command(entry.app).commands  # type: ignore[attr-defined]
    home, bundled = base / "home", specs.root() / "bundled"
    raw = next((home / "nnunet/raw").glob("Dataset501_*"))
    decoy = scratch / "decoy"
    paths = [
        *(
            base / "phantom",
            home,
            raw,
            raw / "labelsTs",
            raw / "cases.csv",
            raw / "dataset.json",
            home / "maps",
            scratch,
        ),
        *(next((home / "maps").glob("*")), bundled / "edm-l64", bundled / "gamma-vae-64", bundled / "maps"),
        *(next((home / "datasets/classification").glob("*")), decoy, decoy / "file", decoy / "file" / "x"),
        *(decoy / "nothing", scratch / "new", Path("/dev/null"), Path("/proc/self/mem"), Path("/nowhere"), Path("/")),
    ]
    values = (*_NUMBERS, *_WORDS, *map(str, paths))
    right = {
        **{
            "--dataset-id": "501",
            "--real": "501",
            "--model": "edm-l64",
            "src": base / "phantom",
            "out": scratch / "new",
        },
        **{"--out": scratch / "new", "run": bundled / "edm-l64", "runs": bundled / "gamma-vae-64", "--std": "0.05"},
        **{"file": decoy / "file", "images": paths[12], "--images": raw / "imagesTs", "folder": home, "spec": "smoke"},
    }

    def make(rng: random.Random, number: int) -> list[str]:
        name = sorted(commands)[number % len(commands)]
        words = [name]
        for parameter in commands[name].params:
            option = parameter.opts[0]
            if option == "--dry-run":
                words.append(option)
            elif parameter.required or rng.random() < 0.15:
                usual = parameter.required and rng.random() < 0.8
                value = str(right.get(option, "1")) if usual else rng.choice(values)
                flag = getattr(parameter, "is_flag", False)
                words += [option] if flag else [option, value] if option.startswith("-") else [value]
        return words

    def read(words: list[str]) -> None:
        (decoy / "folder").mkdir(parents=True, exist_ok=True)
        (decoy / "file").write_text("precious")
        os.environ |= {"ECHOSYNTH_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
        os.chdir(scratch)
        sys.argv = ["echosynth", "--debug", *words]
        try:
            entry.main()
        except SystemExit as e:
            if e.code == 2:
                raise DataError("wrong usage") from None
            if e.code:
                raise RuntimeError(f"ends with {e.code}") from None
        except (OSError, RuntimeError) as e:
            if isinstance(e, RuntimeError) and not is_memory(e):
                raise
            raise (MemoryError if is_memory(e) else DataError)(explain(e)) from None
        finally:
            assert (decoy / "file").read_text() == "precious"
            assert sorted(p.name for p in scratch.iterdir()) == ["decoy"]

    return [Kind("command lines", make, read)]
