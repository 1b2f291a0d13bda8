"""What drawing costs, against formulas; a benchmark that is damaged or of another machine is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import main as entry
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.errors import DataError, SpecError
from echo_synth.experiment.cost import DOCUMENTED, Fleet, fleet_of, footprint_of, format_hours, plan_dataset
from echo_synth.experiment.measured import Machine, Throughput, read_throughput
from tests.cli.terminal import echosynth, in_terminal
from tests.experiment.benchmarks import seconds, write


@pytest.mark.parametrize(
    ("nfe", "basis"),
    [
        (5, "measured"),
        (20, "measured"),
        (12, "between measurements"),
        (4, "beyond measurements"),
        (1000, "beyond measurements"),
    ],
)
def test_seconds_follow_the_line_of_the_evaluations(tmp_path: Path, nfe: int, basis: str) -> None:
    speed = read_throughput(write(tmp_path)).speed("edm-l64", nfe)
    assert speed.seconds == pytest.approx(seconds(nfe), rel=1e-9)
    assert speed.basis == basis


def test_of_three_measurements_the_nearest_two_count() -> None:
    measured = Throughput(Path(), Machine(), {"m": [(1, 1.0), (2, 2.0), (4, 8.0)]})
    assert measured.speed("m", 3).seconds == pytest.approx(5)
    assert measured.speed("m", 5).seconds == pytest.approx(10)  # of the line 11, of proportion 10


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(1e-6, 1e6)), min_size=1, max_size=4, unique_by=lambda p: p[0]),
    st.integers(1, 2000),
)
def test_beyond_measurements_stays_between_no_more_and_proportion(points: list[tuple[int, float]], nfe: int) -> None:
    points = sorted(points)
    speed = Throughput(Path(), Machine(), {"m": points}).speed("m", nfe)
    assert speed.seconds > 0
    nearest, known = min(points, key=lambda p: abs(p[0] - nfe))
    if speed.basis == "beyond measurements":
        bounds = sorted((known, known * nfe / nearest))
        assert bounds[0] * (1 - 1e-9) <= speed.seconds <= bounds[1] * (1 + 1e-9)


def test_a_million_images_on_eight_gpus(tmp_path: Path) -> None:
    throughput = read_throughput(write(tmp_path))
    plan = plan_dataset(1_000_000, "edm-l64", 5, Fleet("gpu", 8, 1, 2.0), throughput)
    assert plan.hours == pytest.approx(1_000_000 / 8 * seconds(5) / 3600)  # 125 000 whole batches of 8
    assert plan.device_hours == pytest.approx(8 * plan.hours)
    assert plan.money == pytest.approx(2 * plan.device_hours)
    assert (plan.bytes, plan.files) == (DOCUMENTED.image_bytes * 1_000_000, 3_000_000)


def test_shards_take_whole_batches(tmp_path: Path) -> None:
    throughput = read_throughput(write(tmp_path))  # batches of 8
    assert plan_dataset(20, "edm-l64", 5, Fleet("gpu", 2), throughput).hours == pytest.approx(16 * seconds(5) / 3600)
    few = plan_dataset(3, "edm-l64", 5, Fleet("gpu", 100), throughput)
    assert few.hours == pytest.approx(few.device_hours) == pytest.approx(3 * seconds(5) / 3600)


def test_cores_are_counted_by_the_threads_of_a_process(tmp_path: Path) -> None:
    throughput = read_throughput(write(tmp_path, accelerator="cpu", threads=4))
    fleet = fleet_of(None, 18, None, throughput.machine)
    assert (fleet.processes, fleet.each) == (4, 4)
    plan = plan_dataset(800, "edm-l64", 5, fleet, throughput)
    assert plan.device_hours == pytest.approx(16 * 200 * seconds(5) / 3600)
    assert plan.money is None
    assert fleet_of(None, None, None, throughput.machine).count == 4
    with pytest.raises(SpecError, match="--cpus 3: one process of the benchmark had 4"):
        fleet_of(None, 3, None, throughput.machine)


def test_a_benchmark_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--cpus: the benchmark ran on A GPU.*'echosynth benchmark --device cpu'"):
        fleet_of(None, 8, None, read_throughput(write(tmp_path)).machine)
    with pytest.raises(SpecError, match=r"--gpus: .*--device cuda"):
        fleet_of(8, None, None, read_throughput(write(tmp_path, accelerator="cpu")).machine)
    with pytest.raises(SpecError, match="expected one of them"):
        fleet_of(8, 8, None, Machine())
    assert fleet_of(8, None, None, Machine()).kind == "gpu"  # of an older benchmark, which did not say


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model,nfe\nedm,5\n", "no column 'images_per_second'"),
        ("model,nfe,images_per_second\nedm,5,0\n", "images_per_second"),
        ("model,nfe,images_per_second\nedm,5,inf\n", "images_per_second"),
        ("model,nfe,images_per_second\nedm,-5,1\n", "nfe"),
        ("model,nfe,images_per_second\nedm,5,1\nedm,5,2\n", "edm at 5 NFE is listed twice"),
        ("model,nfe,images_per_second\n", "holds no row"),
        ("\0\0\0", "zero bytes"),
    ],
)
def test_a_damaged_benchmark_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "throughput.csv").write_text(text)
    with pytest.raises(DataError, match=r"throughput\.csv") as refused:
        read_throughput(tmp_path)
    assert told in str(refused.value)


def test_what_is_missing_says_how_to_measure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing; expected what 'echosynth benchmark --out .*' leaves"):
        read_throughput(tmp_path / "none")
    with pytest.raises(SpecError, match="has no vp, but edm-l64; measure it with 'echosynth benchmark --models vp'"):
        read_throughput(write(tmp_path)).speed("vp", 5)
    (tmp_path / "settings.json").write_text('{"threads": "many"}')
    with pytest.raises(DataError, match=r"settings\.json"):
        read_throughput(tmp_path)


def test_bytes_of_a_dataset_that_is_there(home: Path) -> None:
    raw = RawDataset(home / "nnunet/raw/Dataset501_PHANTOM")
    pictures = home / "datasets/classification/Dataset501_PHANTOM"
    files = [f for folder in (raw.path, pictures) for f in folder.rglob("*") if f.is_file()]
    measured = footprint_of(raw)
    cases = len(raw.cases())
    assert measured.image_bytes == pytest.approx(sum(f.stat().st_size for f in files) / cases)
    assert measured.image_files == pytest.approx(len(files) / cases)
    assert measured.image_files >= 3


@pytest.mark.parametrize(("hours", "text"), [(0.2, "12 min"), (5.25, "5.25 h"), (1234.4, "1,234 h (51 days)")])
def test_hours_in_words(hours: float, text: str) -> None:
    assert format_hours(hours) == text


def test_plan_as_json_and_its_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"plan --images 9000 --model edm-l64 --nfe 20 --gpus 3 --price 2 --benchmark {write(tmp_path / 'b')}"

    def run(words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["echosynth", *words.split()])
        try:
            entry.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert run(f"{line} --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["hours"] == pytest.approx(3000 * seconds(20) / 3600)
    assert told["money"] == pytest.approx(2 * 9000 * seconds(20) / 3600)
    assert told["measured_on"]["size"] == "paper"
    for words, option in (
        (f"{line} --price nan", "--price"),
        (f"{line} --images 0", "--images"),
        (f"{line} --nfe 0", "--nfe"),
    ):
        assert run(words) == 2
        assert option in capsys.readouterr().err
    assert run(f"{line} --like 777") == 1
    assert "Dataset777" in capsys.readouterr().err
    assert run(line.replace("edm-l64", "edm-l63")) == 1
    assert not (tmp_path / "echosynth_home").exists()


@pytest.mark.slow
def test_plan_on_a_terminal(tmp_path: Path) -> None:
    words = echosynth("plan", "--images", "1000000", "--model", "edm-l64", "--nfe", "4", "--gpus", "8")
    ended = in_terminal([*words, "--benchmark", str(write(tmp_path))], folder=tmp_path)
    assert ended.status == 0
    for part in ("1,000,000 images", "GPU hours", "3,000,000 files", "--price", "A GPU, size paper, bf16, batch 8"):
        assert part in ended.screen
    ended = in_terminal(words, folder=tmp_path)
    assert ended.status == 0 or "echosynth benchmark" in ended.screen
