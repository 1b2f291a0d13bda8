"""Values of options that cannot be are refused before any work, with the option's name and what it accepts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cli import main as entry
from echo_synth import specs

TRAIN = "train --model edm-l64 --dataset-id 501"
VAE = "train-vae --model gamma-vae-64 --dataset-id 501"
DISTILL = f"distill --teacher {specs.root() / 'bundled/edm-l64'}"
GENERATE = "generate --model edm-l64 --nfe 1"


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["echosynth", *words])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("line", "option", "accepted"),
    [
        (f"{GENERATE} --device mps", "--device", "auto, cpu, cuda or cuda:N"),
        (f"{GENERATE} --device 0", "--device", "cuda:N"),
        (f"{GENERATE} --device meta", "--device", "cuda:N"),
        (f"{GENERATE} --device cuda:-1", "--device", "cuda:N"),
        (f"{TRAIN} --device gpu", "--device", "cuda:N"),
        (f"{GENERATE} --precision int4", "--precision", "auto, fp32, bf16, fp16 or int8"),
        (f"{TRAIN} --precision int8", "--precision", "auto, fp32, bf16 or fp16"),
        ("sweep smoke --precision int4", "--precision", "auto, fp32, bf16, fp16 or int8"),
        (f"{TRAIN} --lr -1", "--lr", "above 0"),
        (f"{TRAIN} --lr inf", "--lr", "above 0"),
        (f"{VAE} --lr nan", "--lr", "above 0"),
        (f"{VAE} --lr 0", "--lr", "above 0"),
        (f"{TRAIN} --optimizer lion", "--optimizer", "adamw, adam, sgd, muon"),
        (f"{TRAIN} --optimizer sgd", "--lr", "pass --lr with --optimizer sgd"),
        (f"{DISTILL} --optimizer adamw", "--lr", "pass --lr with --optimizer adamw"),
        (f"{TRAIN} --seed {2**63}", "--seed", str(2**63 - 1)),
        (f"{GENERATE} --seed {'9' * 30}", "--seed", str(2**63 - 1)),
        (f"{GENERATE} --count {'9' * 30}", "--count", "100000"),
        (f"{GENERATE} --batch 1000000000", "--batch", "from 1 to 65536"),
        (f"{TRAIN} --micro-batch 1000000", "--micro-batch", "65536"),
        (f"{TRAIN} --copies 1000000000", "--copies", "1000"),
        ("train-classifier DIR --lr nan", "--lr", "above 0"),
        ("train-classifier DIR --batch 1", "--batch", "from 2"),
        ("train-classifier DIR --resolution 1024", "--resolution", "from 32 to 512"),
        (f"bootstrap-eval --repeats {'9' * 30}", "--repeats", "100000"),
        ("make-maps --dataset-id 501 --workers 100000", "--workers", "1024"),
        ("mix-datasets --real 501 --dataset-id 701 --share nan", "--share", "from 0 to 1"),
        ("sweep smoke --cluster foo", "--cluster", "local or slurm"),
        ("sweep smoke --hours nan", "--hours", "0.1"),
        ("sweep smoke --at-once 1000000", "--at-once", "100000"),
        ("sweep smoke --mem nan", "--mem", "0.1"),
        ("sweep smoke --restarts 10000", "--restarts", "from 0 to 1000"),
        ("sweep smoke --gpus 4", "--gpus", "4; expected with --cluster only"),
        ("sweep smoke --hours 2 --status", "--hours", "2.0; expected with --cluster only"),
        ("sweep smoke --partition gpu", "--partition", "gpu; expected with --cluster only"),
        ("sweep smoke --cluster local --mem 8", "--mem", "8.0; expected with --cluster slurm only"),
        ("benchmark --nfe 5,10,5", "--nfe", "each number once"),
        ("study-solvers --model edm-l64 --nfe 5,5", "--nfe", "each number once"),
        ("demo --minutes nan", "--minutes", "greater than or equal to 1"),
        ("average-weights RUN --std nan --out OUT", "--std", "0.25"),
        ("make-maps --dataset-id 501 --out=", "--out", "a value"),
        (f"make-maps --dataset-id 501 --out {'d/' * 1500}x", "--out", "at most 250 folders"),
        (f"phantom {'d/' * 1500}x", "out", "at most 250 folders"),
        (f"{GENERATE} --dataset-id {'9' * 30}", "--dataset-id", "number"),
    ],
)
def test_an_impossible_value_is_named(
    line: str, option: str, accepted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(line.split(" "), monkeypatch) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert option in message
    assert accepted in message


@pytest.mark.parametrize("path", ["", "a\nb", "tab\there", "\udcff"])
def test_paths_that_cannot_be_shown_are_refused(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(["make-maps", "--dataset-id", "501", "--out", path], monkeypatch) == 2
    assert "--out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_possible_passes() -> None:
    from cli.limits import refusal

    for option, value in [
        ("device", "cuda:1"),
        ("device", "cpu"),
        ("seed", 2**63 - 1),
        ("lr", 1e-9),
        ("share", 0.0),
        ("batch", 1),
        ("out", "käse/β"),
        ("synthetic", [601, 602]),
        ("epochs", None),
        ("resume", True),
    ]:
        assert refusal("train", option, value) is None


@pytest.mark.parametrize(
    "words",
    [
        ["report", "d/" * 2000 + "x"],
        [*GENERATE.split(), "--seed", "x" * 5000],
        ["generate", f"--{'n' * 5000}"],
        ["n" * 5000],
        ["mix-datasets", "--real", "501", "--dataset-id", "701", "--name", "n" * 5000],
    ],
    ids=["path", "number", "option", "command", "name"],
)
def test_a_long_value_makes_no_long_message(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(words, monkeypatch) in (1, 2)
    assert 0 < len(capsys.readouterr().err) < 1500


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    given: dict[str, str], told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    _run(["--version"], monkeypatch)
    assert os.environ.get("GOMP_SPINCOUNT") == told
