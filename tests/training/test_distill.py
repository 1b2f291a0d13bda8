"""Distillation: on data whose trajectories are known in closed form, then its promises as a command."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from cli import distill_commands, generate_commands
from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.diffusion.consistency import ConsistencyLevels, consistency_loss, heun_step
from echo_synth.diffusion.preconditioning import EdmPrecond
from echo_synth.errors import RunError, SpecError
from echo_synth.generation.solver_choice import choose_solver
from echo_synth.runs.find import newest_run
from echo_synth.runs.folder import open_run
from echo_synth.runs.progress import read_state_header
from echo_synth.runs.tensors import load_tensors
from echo_synth.sampling import sample
from echo_synth.training.distill import Teacher, default_sigma_max
from echo_synth.training.streams import normal, spread
from echo_synth.training.tasks import consistency
from echo_synth.training.tasks.consistency import ConsistencyTask

MEAN, STD, TOP = 0.3, 0.4, 20.0
BUNDLED = specs.root() / "bundled"


def _denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """Exact for N(MEAN, STD²) data."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def _end(x: Tensor, sigma: Tensor) -> Tensor:
    """Of the trajectory through x at σ, to σ = 0, for the same data: their consistency function."""
    return MEAN + (x - MEAN) * STD / (STD**2 + sigma**2).sqrt()


class _Exact(nn.Module):
    """The denoiser of Gaussian data, as the loss calls one."""

    precond = EdmPrecond()

    def modulate(self, labels: Tensor) -> None:
        return None

    def forward(self, x: Tensor, sigma: Tensor, modulations: None) -> Tensor:
        return _denoise(x, sigma.reshape(-1, 1, 1, 1))


class _Affine(_Exact):
    """c_skip x + c_out F with F = a(σ) c_in x + b(σ): what Gaussian data need, and no more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, sigma: Tensor, modulations: None) -> Tensor:
        c = self.precond.scalings(sigma.reshape(-1, 1, 1, 1))
        a, b = self.net(c.noise.reshape(-1, 1)).T.reshape(2, -1, 1, 1, 1)
        return c.skip * x + c.out * (a * c.input * x + b)


@pytest.fixture(scope="module")
def fitted() -> _Affine:
    """A network that is fitted to the denoiser, as a teacher's weights are."""
    student = _Affine()
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    for step in range(800):
        sigma = torch.logspace(-2.7, 1.31, 64) * (
            1 + 0.2 * torch.rand(64, generator=torch.Generator().manual_seed(step))
        )
        x = normal(1, range(step * 64, step * 64 + 64), (1, 2, 2)) * sigma.reshape(-1, 1, 1, 1)
        level = sigma.reshape(-1, 1, 1, 1)
        error = (student(x, sigma, None) - _denoise(x, level)) / student.precond.scalings(level).out
        optimizer.zero_grad()
        error.pow(2).mean().backward()
        optimizer.step()
    return student


def _error(student: nn.Module) -> float:
    """Root mean squared distance of one-evaluation samples from the ends of their trajectories."""
    noise = normal(7, range(256), (1, 4, 4)) * TOP
    sigma = torch.full((256,), TOP)
    return float((student(noise, sigma, None) - _end(noise, torch.tensor(TOP))).pow(2).mean().sqrt())


def _tune(student: _Affine, images: int, teacher: nn.Module | None) -> None:
    levels = ConsistencyLevels(TOP, halve_every=images // 6)
    optimizer = torch.optim.Adam(student.parameters(), 2e-3)
    sector = torch.ones(64, 1, 4, 4)
    for first in range(0, images, 64):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - first / images)
        positions = range(first, first + 64)
        clean = MEAN + STD * normal(2, positions, (1, 4, 4))
        noise = normal(3, positions, (1, 4, 4))
        pair = levels.draw(spread(0, positions, 64), positions)
        loss = consistency_loss(student, clean, torch.zeros(64), sector, pair, noise, 0.01, teacher)  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize(("by_teacher", "remains"), [(False, 0.1), (True, 0.1)])
def test_the_denoiser_of_gaussian_data_becomes_their_consistency_function(
    fitted: _Affine, by_teacher: bool, remains: float
) -> None:
    """The denoiser itself gives the mean, off by the data's whole spread; the tuned one is near each trajectory's end."""
    student = deepcopy(fitted)
    before = _error(student)
    assert before == pytest.approx(STD, rel=0.1)
    _tune(student, 64 * 300, _Exact() if by_teacher else None)
    assert _error(student) < remains * before


def test_two_evaluations_of_the_exact_function_follow_the_closed_form() -> None:
    noise, again = (normal(s, range(32), (1, 4, 4)).double() for s in (0, 1))
    one = sample(_end, noise, nfe=1, solver="consistency", sigmas=(TOP,))
    torch.testing.assert_close(one, _end(noise * TOP, torch.tensor(TOP)))
    two = sample(_end, noise, nfe=2, solver="consistency", sigmas=(TOP, 0.8), draw=lambda _: again)
    torch.testing.assert_close(two, _end(one + 0.8 * again, torch.tensor(0.8, dtype=torch.float64)))


def test_the_teachers_step_stays_on_the_trajectory() -> None:
    t, r = torch.full((8,), 2.0), torch.full((8,), 1.9)
    x = MEAN + 2.0 * normal(0, range(8), (1, 4, 4))
    inside = torch.ones_like(x)
    stepped = heun_step(_Exact(), x, (t, r), torch.zeros(8), inside)  # type: ignore[arg-type]
    torch.testing.assert_close(_end(stepped, torch.tensor(1.9)), _end(x, torch.tensor(2.0)), atol=1e-4, rtol=0)
    ended = heun_step(_Exact(), x, (t, torch.zeros(8)), torch.zeros(8), inside)  # type: ignore[arg-type]
    torch.testing.assert_close(ended, _denoise(x, torch.tensor(2.0)))


class _Neighbourly(_Exact):
    """Exact inside the sector as long as what surrounds it is a noisy −1; outside it answers without meaning, as networks do."""

    def __init__(self, sector: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.sector, self.noise = sector, noise

    def forward(self, x: Tensor, sigma: Tensor, modulations: None) -> Tensor:
        level = sigma.reshape(-1, 1, 1, 1)
        beside = (x - (level * self.noise - 1)) * (self.sector == 0)
        strange = beside.abs().amax((1, 2, 3), keepdim=True)
        return torch.where(self.sector > 0, _denoise(x, level) + strange, 7.0)


def test_the_teacher_never_sees_what_it_said_outside_the_sector() -> None:
    sector = torch.zeros(8, 1, 4, 4)
    sector[..., :2] = 1
    noise, t, r = normal(0, range(8), (1, 4, 4)), torch.full((8,), 2.0), torch.full((8,), 1.9)
    x = torch.where(sector > 0, MEAN, -1.0) + 2.0 * noise
    stepped = heun_step(_Neighbourly(sector, noise), x, (t, r), torch.zeros(8), sector)  # type: ignore[arg-type]
    known = heun_step(_Exact(), x, (t, r), torch.zeros(8), torch.ones_like(x))  # type: ignore[arg-type]
    torch.testing.assert_close(stepped * sector, known * sector, atol=1e-5, rtol=0)
    torch.testing.assert_close(stepped * (1 - sector), (1.9 * noise - 1) * (1 - sector), atol=1e-5, rtol=0)


def test_the_gap_shrinks_and_levels_keep_to_their_range() -> None:
    levels = ConsistencyLevels(TOP, halve_every=100)
    uniform = torch.linspace(0.001, 0.999, 99)
    shares = []
    for first in (0, 100, 500):
        t, r = levels.draw(uniform, range(first, first + 99))
        assert t.min() >= 0.002
        assert t.max() <= TOP
        assert (r < t).all()
        assert (r >= 0).all()
        shares.append(float(((t - r) / t)[-20:].mean()))
    assert shares[0] == pytest.approx(2 * shares[1], rel=1e-2)
    assert shares[1] == pytest.approx(16 * shares[2], rel=1e-3)


def test_what_cannot_be_distilled_is_named() -> None:
    run = open_run(BUNDLED / "edm-l64", "diffusion")
    foreign = run.description.model_copy(update={"precond": "vp"})
    with pytest.raises(RunError, match=r"its formulation is vp, .*distill an edm, edm-l128 or edm-l64"):
        Teacher(type(run)(run.folder, foreign), None).check()
    Teacher(run, None).check()
    assert [default_sigma_max(r) for r in (64, 128, 256)] == [20.0, 40.0, 80.0]


def _distill(out: Path, **changes: object) -> None:
    asked = {"images": 16, "batch": 4, "copies": 1, "device": "cpu", "precision": "fp32", "halve_every": 4}
    distill_commands.distill(BUNDLED / "edm-l64", 501, BUNDLED / "gamma-vae-64", out, **(asked | changes))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_student_is_a_run_like_any_other(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency, "_SOLUTION_NFE", 6)  # of what it is compared with, not of the student
    out = own_home / "runs/student"
    _distill(out)
    whole, _ = load_tensors(out / "model.safetensors")
    plain = ConsistencyTask.loss

    def dies(task: ConsistencyTask, module: nn.Module, positions: range) -> object:
        if positions[0] >= 8:
            raise InterruptedError
        return plain(task, module, positions)

    with monkeypatch.context() as patch:
        patch.setattr(ConsistencyTask, "loss", dies)
        with pytest.raises(InterruptedError):
            _distill(tmp_path / "broken")
    _distill(tmp_path / "broken", resume=True)
    resumed, _ = load_tensors(tmp_path / "broken/model.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    # A run that is lengthened keeps the default of its first length, which nobody gave.
    _distill(tmp_path / "longer", halve_every=None)
    _distill(tmp_path / "longer", halve_every=None, images=24, resume=True)
    assert read_state_header(tmp_path / "longer")["identity"]["halve_every"] == 2
    with pytest.raises(RunError, match="was started with target = teacher, asked to resume with data"):
        _distill(tmp_path / "broken", resume=True, target="data")

    run = open_run(out, "diffusion")
    distilled = run.description.distilled
    assert distilled is not None
    assert distilled.teacher == open_run(BUNDLED / "edm-l64").hash()
    assert newest_run("edm-l64") is None  # drawn with where it is named, never by itself
    with pytest.raises(RunError, match="is distilled itself; pass its teacher"):
        distill_commands.distill(out, 501)
    with pytest.raises(SpecError, match=r"--nfe 20: .* is distilled to 1 or 2 evaluations; use --nfe 1 or 2"):
        choose_solver(run, "auto", 20, {})
    with pytest.raises(SpecError, match=r"--sigma-max 20: .* is distilled and has noise levels of its own"):
        choose_solver(run, "auto", 1, {}, 20.0)
    with pytest.raises(SpecError, match=r"--solver heun: .* is distilled and has no solver"):
        choose_solver(run, "heun", 2, {})
    for number, nfe in ((601, 1), (602, 2)):
        generate_commands.generate(
            "edm-l64", nfe, out, BUNDLED / "gamma-vae-64", count=2, dataset_id=number, device="cpu", precision="fp32"
        )
        raw = nnunet_raw.find(number).path
        assert raw.name.endswith(f"EDM-L64_distilled_nfe{nfe}")
        manifest = pd.read_parquet(raw / "manifest.parquet")
        assert set(manifest["solver"]) == {"consistency"}
        assert set(manifest["sigmas"]) == {" ".join(map(repr, (distilled.sigma_max, distilled.renoise)[:nfe]))}
    settings = json.loads((out / "settings.json").read_text())
    assert settings["command"] == "distill"
    training = settings["training"]  # with the preset's optimiser, at 0.3 of its rate
    assert (training["optimizer"], training["lr"]) == ("muon", pytest.approx(0.3 * 4e-3))
