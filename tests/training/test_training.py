"""The engine: killed and resumed it gives the same weights; wrong resumes are refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echo_synth import interrupt, specs
from echo_synth.errors import RunError, TrainingError
from echo_synth.runs.folder import STATE, WEIGHTS
from echo_synth.runs.progress import progress_of
from echo_synth.runs.tensors import load_tensors, load_weights, save_tensors
from echo_synth.specs import TrainingSpec
from echo_synth.training.ema import PowerEma, gamma_of_std
from echo_synth.training.loop import Engine
from echo_synth.training.run import TrainingSettings, images_at_once, validations
from echo_synth.training.streams import normal, sample_indices, spread, uniform


class _Killed(Exception):
    pass


def _engine(folder: Path, die_at: int | None = None, nan_at: int | None = None, **changes: object) -> Engine:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
    data = torch.randn(37, 4, generator=torch.Generator().manual_seed(5))

    def loss(live: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        if die_at is not None and positions[0] >= die_at:
            raise _Killed
        rows = sample_indices(0, positions, len(data))
        x = data[rows] + 0.1 * normal(0, positions, (4,))
        value = ((live(x)[:, 0] - data[rows].sum(1)) ** 2).mean()
        return {"loss": value * (float("nan") if nan_at is not None and positions[0] >= nan_at else 1)}

    def validate(live: nn.Module) -> Mapping[str, float]:
        return {"mse": float(((live(data)[:, 0] - data.sum(1)) ** 2).mean())}

    spec = TrainingSpec(
        **({"images": 400, "batch": 8, "optimizer": "adamw", "lr": 1e-2, "clip_norm": 1.0, "ema_std": 0.1} | changes)
    )  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    return Engine(
        module, loss, validate, spec, folder, 0, {"lr": spec.lr}, device="cpu", checkpoint_seconds=0.0, validations=5
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a whole run that kept snapshots; `_copied` gives a test its own."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    _engine(folder, ema_snapshots=2).run(resume=False)
    return folder


def _copied(finished: Path, folder: Path) -> Path:
    return Path(shutil.copytree(finished, folder, dirs_exist_ok=True))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_an_interrupted_run_ends_in_the_same_weights(optimizer: str, tmp_path: Path) -> None:
    whole = _engine(tmp_path / "whole", optimizer=optimizer)
    whole.run(resume=False)
    for moment in (40, 41, 200, 333):
        broken = _engine(tmp_path / "broken", die_at=moment, optimizer=optimizer)
        with pytest.raises(_Killed):
            broken.run(resume=(tmp_path / "broken" / STATE).is_file())
    last = _engine(tmp_path / "broken", optimizer=optimizer)
    last.run(resume=True)
    for a, b in zip(whole.module.parameters(), last.module.parameters(), strict=True):
        assert torch.equal(a, b)
    for name in ("model.safetensors",):
        one, _ = load_tensors(tmp_path / "whole" / name)
        two, _ = load_tensors(tmp_path / "broken" / name)
        assert all(torch.equal(one[k], two[k]) for k in one)
    histories = [(tmp_path / f / "history.csv").read_text().splitlines() for f in ("whole", "broken")]
    assert [r.split(",")[:4] for r in histories[0]] == [r.split(",")[:4] for r in histories[1]]


@pytest.mark.slow
def test_there_is_something_to_resume_from_the_first_moment(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save_tensors(folder / WEIGHTS, {"old": torch.zeros(1)})  # of a run that this one replaces
    with pytest.raises(_Killed):
        _engine(folder, die_at=0).run(resume=False)
    assert str(progress_of(folder)) == "unfinished: 0 of 400 images"
    assert not (folder / WEIGHTS).exists()
    resumed = _engine(folder)
    resumed.run(resume=True)
    whole = _engine(tmp_path / "whole")
    whole.run(resume=False)
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_a_lengthened_run_goes_on_where_it_was(tmp_path: Path) -> None:
    _engine(tmp_path / "run").run(resume=False)
    longer = _engine(tmp_path / "run", images=800)
    longer.run(resume=True)
    assert str(progress_of(tmp_path / "run")) == "800 images"
    assert longer.state.first_images == 400  # the warm-up is that of the beginning
    rows = [r.split(",") for r in (tmp_path / "run/history.csv").read_text().splitlines()[1:]]
    seen = [int(r[0]) for r in rows if r[2] == "val"]
    assert seen == sorted(set(seen))
    assert max(seen) == 800
    assert {float(r[5]) for r in rows if int(r[0]) > 400} == {0.01}


def test_an_interrupted_run_says_what_is_saved_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_synth.interrupt._left", [])
    monkeypatch.setattr("sys.argv", ["echosynth", "train", "--overwrite", "--images", "400"])
    engine = _engine(tmp_path / "run")

    def interrupted(_: nn.Module) -> Mapping[str, float]:
        raise KeyboardInterrupt

    engine.validate = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.run(resume=False)
    told = str(interrupt.message())
    assert "saved unfinished: 72 of 400 images" in told
    assert told.endswith(f"continue with: echosynth train --images 400 --resume --out {tmp_path / 'run'}")


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    engine = _engine(tmp_path / "run")
    best = engine.run(resume=False)
    rows = [r.split(",") for r in (tmp_path / "run/history.csv").read_text().splitlines()[1:]]
    values = [float(r[4]) for r in rows if r[2] == "val"]
    assert best["mse"] == pytest.approx(min(values), rel=1e-4)
    assert min(values) < values[0]


def test_a_term_that_begins_late_is_averaged_over_the_steps_that_had_it(tmp_path: Path) -> None:
    engine = _engine(tmp_path / "run")
    early = engine.loss

    def loss(live: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        return {**early(live, positions), **({"late": torch.ones(())} if positions[0] >= 40 else {})}

    engine.loss = loss
    engine.run(resume=False)
    rows = [r.split(",") for r in (tmp_path / "run/history.csv").read_text().splitlines()[1:]]
    late = [float(r[4]) for r in rows if r[3] == "late"]
    assert len(late) >= 5
    assert late == pytest.approx([1.0] * len(late))


@pytest.mark.slow
def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    whole, pieces = _engine(tmp_path / "a"), _engine(tmp_path / "b")
    pieces.micro_batch = 2
    whole.run(resume=False)
    pieces.run(resume=False)
    for a, b in zip(whole.module.parameters(), pieces.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "device", "asked", "found"),
    [("edm", "cpu", None, 8), ("edm-l64", "cpu", None, 128), ("edm", "cpu", 3, 3), ("edm", "cuda:1", None, None)],
)
def test_a_batch_of_large_images_is_split_on_a_cpu(
    model: str, device: str, asked: int | None, found: int | None
) -> None:
    training = specs.training_of(specs.model(model), "tiny")
    settings = TrainingSettings(model, "tiny", training, 0, "fp32", device, micro_batch=asked)
    assert images_at_once(settings) == found


def test_short_trainings_validate_less_often() -> None:
    assert [validations(n) for n in (1, 500, 3000, 10_000, 500_000)] == [4, 4, 6, 20, 20]


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss is not finite at step 25 \(samples 200 to 207\)"):
        _engine(tmp_path / "run", nan_at=200).run(resume=False)
    _, metadata = load_tensors(tmp_path / "run" / STATE)
    assert metadata["step"] == 25


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(_Killed):
        _engine(tmp_path / "run", die_at=100).run(resume=False)
    with pytest.raises(RunError, match=r"started with lr = 0\.01, asked to resume with 0\.02"):
        _engine(tmp_path / "run", lr=0.02).run(resume=True)


def test_a_damaged_weights_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(RunError, match=r"w\.safetensors: not a readable safetensors file"):
        load_tensors(tmp_path / "w.safetensors")
    save_tensors(tmp_path / "x.safetensors", {"weight": torch.zeros(2, 2)})
    with pytest.raises(RunError, match="does not fit this network"):
        load_weights(nn.Linear(3, 3), tmp_path / "x.safetensors")


def test_each_epoch_sees_every_row_once() -> None:
    rows = sample_indices(3, list(range(30)), 10)
    for epoch in range(3):
        assert sorted(rows[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert not np.array_equal(rows[:10], rows[10:20])


def test_noise_depends_on_the_position_only() -> None:
    assert torch.equal(normal(1, [5, 9], (3,))[1], normal(1, [9], (3,))[0])
    assert not torch.equal(normal(1, [5], (3,)), normal(2, [5], (3,)))
    many = uniform(0, list(range(2000)))
    assert float(many.mean()) == pytest.approx(0.5, abs=0.03)


def test_ema_has_the_stated_width() -> None:
    """Karras 2024, eq. 122: the standard deviation of the averaging profile relative to training time."""
    for std in (0.05, 0.1, 0.2):
        ema = PowerEma([torch.zeros(1, dtype=torch.float64)], std)
        steps, weights = 4000, []
        for t in range(1, steps + 1):
            weights.append(1 - (1 - 1 / t) ** (ema.gamma + 1))
        profile = np.array(weights)
        tail = np.cumprod((1 - profile)[::-1])[::-1]
        profile *= np.append(tail[1:], 1)
        t = np.arange(1, steps + 1) / steps
        mean = (profile * t).sum()
        assert np.sqrt((profile * (t - mean) ** 2).sum()) == pytest.approx(std, rel=0.02)
    assert gamma_of_std(0.1) == pytest.approx(6.94, abs=0.01)


def test_without_a_width_the_average_is_the_latest() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    ema = PowerEma([p], 0.0)
    with torch.no_grad():
        p.fill_(7)
    ema.update([p], 5)
    assert torch.equal(ema.average[0], torch.full((3,), 7.0))


@pytest.mark.parametrize("size", [1, 4, 32])
def test_spread_noise_levels_are_one_a_strip_and_uniform(size: int) -> None:
    levels = spread(3, list(range(20 * size)), size).reshape(20, size)
    strips = (levels * size).floor().int()
    assert all(sorted(row.tolist()) == list(range(size)) for row in strips)
    assert torch.equal(spread(3, [size, 2 * size - 1], size), levels[1, [0, -1]])  # whichever process asks
    one = spread(0, list(range(0, 4000 * size, size)), size)
    assert float(one.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(one.var()) == pytest.approx(1 / 12, abs=0.005)


def test_the_rate_rises_then_stays_then_falls_to_nothing(tmp_path: Path) -> None:
    engine = _engine(tmp_path / "run", lr_decay=0.4)
    engine.run(resume=False)
    rates = []
    for engine.state.step in range(50):
        rates.append(engine._learning_rate())
    assert rates[:30] == pytest.approx([0.01] * 30)
    assert rates[30:] == pytest.approx([0.01 * (50 - s) / 20 for s in range(30, 50)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["model.0.weight", "ema.1", "optimizer.2.exp_avg_sq", "optimizer.0.step", "track1.3"])
def test_a_state_that_is_not_finite_is_not_gone_on_with(
    part: str, value: float, finished: Path, tmp_path: Path
) -> None:
    _copied(finished, tmp_path)
    tensors, metadata = load_tensors(tmp_path / STATE)
    tensors[part].view(-1)[-1] = value
    save_tensors(tmp_path / STATE, tensors, metadata)
    words = rf"state\.safetensors: {re.escape(part)} holds values that are not finite.*; train again with --overwrite"
    with pytest.raises(RunError, match=words):
        _engine(tmp_path, ema_snapshots=2, images=800).run(resume=True)


def _changed(tensors: dict[str, Tensor], metadata: dict[str, Any], what: str) -> None:
    if what == "missing":
        del tensors["ema.0"]
    elif what == "extra":
        tensors["model.more"] = torch.zeros(1)
    elif what == "shape":
        tensors["model.0.weight"] = torch.zeros(3, 3)
    elif what == "optimizer":
        tensors["optimizer.9.exp_avg"] = torch.zeros(1)
    elif what == "moment":
        tensors["optimizer.0.exp_avg"] = torch.zeros(())
    else:
        metadata |= {"numbers": {"best": {"mse": float("nan")}}, "steps": {"step": None}}[what]


@pytest.mark.parametrize("what", ["missing", "extra", "shape", "optimizer", "moment", "numbers", "steps"])
def test_a_state_of_something_else_is_refused_whole(what: str, finished: Path, tmp_path: Path) -> None:
    _copied(finished, tmp_path)
    tensors, metadata = load_tensors(tmp_path / STATE)
    _changed(tensors, metadata, what)
    save_tensors(tmp_path / STATE, tensors, metadata)
    engine = _engine(tmp_path, ema_snapshots=2, images=800)
    before = engine.module[0].weight.detach().clone()  # type: ignore[index]
    with pytest.raises(RunError, match=r"state\.safetensors.*; train again with --overwrite"):
        engine.run(resume=True)
    assert torch.equal(engine.module[0].weight, before)  # type: ignore[index]


@pytest.mark.slow
def test_a_last_phase_names_what_does_it_again(finished: Path, tmp_path: Path) -> None:
    _copied(finished, tmp_path / "finish")
    (tmp_path / "finish" / STATE).write_bytes(b"cut")
    engine = _engine(tmp_path / "finish", ema_snapshots=2, images=800)
    engine.run_folder = tmp_path
    with pytest.raises(RunError, match="remove that file: --resume then does this last phase again"):
        engine.run(resume=True)
    (tmp_path / "finish" / STATE).unlink()
    engine.run(resume=True)


def test_the_loss_scale_comes_back_as_it_was(finished: Path, tmp_path: Path) -> None:
    _copied(finished, tmp_path)
    tensors, metadata = load_tensors(tmp_path / STATE)
    metadata["scaler"] = {"scale": 1024.0, "growth_factor": 2.0, "growth_interval": 2000, "_growth_tracker": 7}
    save_tensors(tmp_path / STATE, tensors, metadata)
    restored: dict[str, Any] = {}

    class Scaler:
        def load_state_dict(self, numbers: dict[str, Any]) -> None:
            restored.update(numbers)

    engine = _engine(tmp_path, ema_snapshots=2, images=400)
    engine._start(resume=True)
    engine.state.scaler = Scaler()  # type: ignore[assignment]
    engine.state.load(tmp_path / STATE)
    assert restored == metadata["scaler"]
    assert isinstance(restored["growth_interval"], int)
