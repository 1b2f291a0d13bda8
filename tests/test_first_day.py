"""docs/gpu: a parcel, and the script of a first day on a GPU, here on the CPU at its smallest."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "gpu"))

import book  # noqa: E402
import pack  # noqa: E402
import run  # noqa: E402
import six_models  # noqa: E402

from echo_synth.experiment.cells import build_cells  # noqa: E402
from echo_synth.experiment.spec import read_sweep  # noqa: E402
from tests.warm import Warm  # noqa: E402


def _session(tmp_path: Path, seconds: float = 600, quick: bool = False) -> run.Session:
    (tmp_path / "out").mkdir()
    return run.Session(book.Book(tmp_path / "out", seconds), tmp_path / "work", "cpu", quick)


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _state(session: run.Session) -> dict[str, object]:
    return book.rows(session.book.out)[-1]


def test_a_section_that_fails_is_written_down(tmp_path: Path) -> None:
    session = _session(tmp_path)
    after = tmp_path / "after"
    section = run.Section(
        "x", 1, 60, [_python("print('why'); raise SystemExit(3)"), _python(f"open({str(after)!r}, 'w')")]
    )
    assert not session.run(section)
    assert _state(session)["state"] == "failed with status 3"
    assert "why" in (tmp_path / "out" / "logs" / "x.txt").read_text()
    assert not after.exists()


@pytest.mark.slow
def test_what_a_section_started_ends_with_its_time(tmp_path: Path) -> None:
    session, sign = _session(tmp_path), tmp_path / "child"
    child = f"import os, time; open({str(sign)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert not session.run(run.Section("x", 1, 5, [_python(code)]))
    assert _state(session)["state"] == "out of time"
    number, deadline = int(sign.read_text()), time.monotonic() + 30
    while Path(f"/proc/{number}").exists() and " Z " not in Path(f"/proc/{number}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_section_that_would_be_late_is_skipped(tmp_path: Path) -> None:
    session = _session(tmp_path, seconds=20)
    assert not session.run(run.Section("x", 30, 60, [_python("raise SystemExit(1)")]))
    assert _state(session)["state"] == "skipped"
    assert not (tmp_path / "out" / "logs").exists()


def test_packages_come_with_what_they_need() -> None:
    assert set(pack.needed(["pytest"], [])) >= {"pytest", "pluggy", "iniconfig", "packaging", "pygments"}
    assert "packaging" not in pack.needed(["pytest"], ["Packaging"])
    everything = pack.needed(["echosynth"], pack.PRESENT)
    assert {"nnunetv2", "simpleitk", "typer", "pydantic-core"} <= set(everything)
    assert not [n for n in everything if n.startswith(("nvidia", "torch"))]
    assert "argparse" not in everything  # of nnunetv2's; its module would stand before Python's own
    with pytest.raises(SystemExit, match="not installed here"):
        pack.needed(["no-such-package"], [])


def test_what_is_too_old_there_is_packed() -> None:
    freeze = "timm==1.0.9\nnumpy==2.5.2\n# comment\nrich\nother==1\nscipy @ file:///somewhere\n"
    assert pack.sufficient(freeze, ["timm>=1.0.20", "numpy>=1.26", "rich>=13"]) == ["numpy", "rich", "other", "scipy"]


def test_machine_code_of_another_python_is_not_packed() -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert pack.fits("pydantic-core", here)
    assert not pack.fits("pydantic-core", "3.99")
    assert pack.fits("pluggy", "3.99")


@pytest.mark.slow
def test_a_parcel_is_packed_and_run(warm: Warm, tmp_path: Path) -> None:
    parcel, out = tmp_path / "parcel.tar.xz", tmp_path / "out"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def script(name: str, *words: object) -> None:
        command = [warm.python, str(ROOT / "docs" / "gpu" / name), *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]

    script("pack.py", parcel, "--patients", 5, "--lacks", "pluggy")
    with tarfile.open(parcel) as opened:
        names, owners = opened.getnames(), {(m.uid, m.uname) for m in opened}
    assert "site/pluggy/__init__.py" in names
    assert [n for n in names if n.startswith("home/nnunet/raw/Dataset501") and n.endswith(".nii.gz")]
    assert owners == {(0, "")}
    sections = ("checks", "throughput", "train")  # the others, whose parts have tests of their own, take a minute more
    script(
        "run.py",
        "--out",
        out,
        "--parcel",
        parcel,
        "--device",
        "cpu",
        "--quick",
        "--minutes",
        60,
        "--sections",
        *sections,
    )
    figures = book.rows(out)
    states = {r["section"]: r["state"] for r in figures if "seconds" in r and "cpu_seconds" in r}
    assert states == dict.fromkeys(sections, "done")
    trained = {r["model"]: r["state"] for r in figures if r["section"] == "models"}
    assert trained == dict.fromkeys(("sdm", "ve", "vp", "edm", "edm-l128", "edm-l64"), "done")
    ways = {r["way"]: r for r in figures if r["section"] == "ways"}
    assert ways["plain"]["largest_grey_levels"] == 0
    assert 0 <= ways["fp32"]["largest_grey_levels"] <= 2
    assert {"grid.png", "preview.png", "edm_history.csv"} <= {p.name for p in out.iterdir()}


def test_the_six_models_share_the_time_by_their_rates(tmp_path: Path) -> None:
    figures = book.Book(tmp_path, 60)
    speeds = {"sdm": 10.0, "ve": 20.0, "vp": 20.0, "edm": 10.0, "edm-l128": 40.0, "edm-l64": 82.0}
    for name, speed in speeds.items():
        figures.add("rates", model=name, batch=32, optimizer="muon", images_per_second=speed)
    assert six_models.lengths(tmp_path / book.RESULTS, 16, "muon") == {
        "sdm": 160, "ve": 320, "vp": 320, "edm": 160, "edm-l128": 640, "edm-l64": 1312
    }  # fmt: skip
    with pytest.raises(
        SystemExit, match=r"no rates of edm, edm-l128.* run checks.py --parts rates --optimizer adamw first"
    ):
        six_models.lengths(tmp_path / book.RESULTS, 16, "adamw")


def test_what_was_trained_otherwise_is_not_taken_for_the_one_asked_for(tmp_path: Path) -> None:
    run_folder = tmp_path / "home/runs/edm_0"
    run_folder.mkdir(parents=True)
    (run_folder / "settings.json").write_text('{"training": {"images": 64, "optimizer": "adamw", "lr": 0.001}}')
    (run_folder / "SHA256SUMS").write_text("")
    (tmp_path / "out").mkdir()
    given = (book.Book(tmp_path / "out", 60), tmp_path / "home", "cpu", {"edm": 64})
    assert six_models.Study(*given, "adamw", 1e-3, "six-models.yaml", True).train("edm", 0)
    with pytest.raises(SystemExit, match=r"was trained with {'optimizer': 'adamw', 'lr': 0.001}, asked for"):
        six_models.Study(*given, "muon", 4e-3, "six-models.yaml", True).train("edm", 0)


def test_the_six_models_are_the_cells_of_their_sweep() -> None:
    spec = read_sweep(Path("six-models.yaml"))
    rows = {row: (spec.model_of(row), str(grid.checkpoint)) for row, grid in spec.models.items()}
    assert rows == {f"{m}_{s}": (m, f"runs/{m}_{s}") for m, s in six_models.TRAININGS}
    known = dict.fromkeys((*rows, "real", "maps", "trainer"), "x")
    wanted = {f"{name}_train{seed}" for name in six_models.CELLS for seed in six_models.SEGMENTERS}
    assert {cell.name for cell in build_cells(spec, known)} == wanted
