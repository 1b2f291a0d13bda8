"""The prior's fit: against scipy's own maximum likelihood, and against data whose prior is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from echo_synth.errors import DataError
from echo_synth.evaluation import latent_prior
from tests.cli.reports import printed


def _counts(samples: np.ndarray) -> np.ndarray:
    levels = np.clip(np.floor(samples * 256), 0, 255).astype(int)
    return np.bincount(levels, minlength=256).astype(np.int64)


@pytest.mark.parametrize(("alpha", "beta"), [(3.75, 22.0), (2.0, 20.0), (6.0, 30.0)])
def test_a_known_prior_is_found(alpha: float, beta: float) -> None:
    x = stats.gamma(alpha, scale=1 / beta).rvs(400_000, random_state=1)
    fitted = latent_prior.maximum_likelihood_gamma(_counts(x))
    assert fitted["alpha"] == pytest.approx(alpha, rel=0.03)
    assert fitted["beta"] == pytest.approx(beta, rel=0.03)


def test_it_agrees_with_scipy() -> None:
    counts = _counts(stats.gamma(3.0, scale=0.1).rvs(3000, random_state=2))
    shape, _, scale = stats.gamma.fit(np.repeat(latent_prior.LEVELS, counts), floc=0)
    ours = latent_prior.maximum_likelihood_gamma(counts)
    assert ours["alpha"] == pytest.approx(shape, rel=1e-4)
    assert ours["beta"] == pytest.approx(1 / scale, rel=1e-4)


def test_the_grid_search_lands_beside_the_truth() -> None:
    x = stats.gamma(3.75, scale=1 / 10.8).rvs(400_000, random_state=3)
    assert latent_prior.grid_search_gamma(_counts(x)) == {"alpha": 3.75, "beta": pytest.approx(10.8, abs=0.41)}


def test_the_right_family_wins() -> None:
    rayleigh = _counts(stats.rayleigh(scale=0.2).rvs(100_000, random_state=4))
    gamma = _counts(stats.gamma(3.75, scale=1 / 10.8).rvs(100_000, random_state=5))
    best = [min(latent_prior.fit_all(c), key=lambda f: f.aic).name for c in (rayleigh, gamma)]
    assert best == ["rayleigh", "gamma"]


def test_only_the_sector_counts() -> None:
    image, tissue = np.full((4, 4), 7, np.uint8), np.zeros((4, 4), np.uint8)
    tissue[0] = 4
    assert latent_prior.in_sector_counts([image], [tissue])[7] == 4
    with pytest.raises(DataError, match="no pixel inside any sector"):
        latent_prior.in_sector_counts([image], [tissue * 0])


def test_a_constant_image_has_no_prior() -> None:
    counts = np.zeros(256, np.int64)
    counts[9] = 100
    with pytest.raises(DataError, match="one grey level"):
        latent_prior.maximum_likelihood_gamma(counts)


@pytest.mark.slow
def test_the_command_writes_what_training_reads(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cli.inspect_commands import fit_prior

    fit_prior(501, out=tmp_path / "p", as_json=True)
    written = json.loads((tmp_path / "p/gamma_prior.json").read_text())
    assert printed(capsys, "fit-prior", tmp_path / "p") == written
    alpha, beta = latent_prior.read_prior(tmp_path / "p/gamma_prior.json")
    assert alpha > 0
    assert beta > 0
    assert (tmp_path / "p/gamma_prior.png").read_bytes()[:4] == b"\x89PNG"
    fit_prior(501, out=tmp_path / "q")
    said = capsys.readouterr().err
    assert [way for way in ("maximum likelihood", "grid search", "the paper's") if f"gamma     {way}" not in said] == []
    (tmp_path / "bad.json").write_text(json.dumps({"alpha": -1, "beta": 2}))
    with pytest.raises(DataError, match="expected a positive number"):
        latent_prior.read_prior(tmp_path / "bad.json")
