"""Networks and Γ-VAE against outputs of the reference implementations, through compat.edmlx."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from echo_synth.compat import edmlx, infer

FOLDER = Path(__file__).parents[1] / "reference"
TOLERANCE = 1e-5


def seeded(name: str, shape: list[int]) -> np.ndarray:
    """A parameter as a function of its name."""
    r = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("freqs"):
        return r * 16
    if len(shape) > 1:
        return (r * 0.5 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return r * np.float32(0.1) + np.float32(name.endswith("weight"))


def _case(name: str) -> tuple[dict, dict[str, np.ndarray], np.lib.npyio.NpzFile]:  # type: ignore[type-arg]
    settings = json.loads((FOLDER / f"{name}.json").read_text())
    return settings, {k: seeded(k, s) for k, s in settings["parameters"].items()}, np.load(FOLDER / f"{name}.npz")


def _difference(ours: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - expected).max() / np.abs(expected).max())


NETWORKS = sorted(p.stem for p in FOLDER.glob("*.json") if "precond" in p.read_text())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    settings, state, arrays = _case(name)
    denoised = edmlx.load_network(settings, state)(arrays["x"], arrays["sigma"], arrays["labels"])
    assert _difference(denoised, arrays["denoised"]) < TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_can_be_read_off_the_parameters(name: str) -> None:
    settings, state, arrays = _case(name)
    read = infer.network_settings({k: torch.from_numpy(v) for k, v in state.items()}, settings["precond"])
    denoised = edmlx.load_network(read, state)(arrays["x"], arrays["sigma"], arrays["labels"])
    assert _difference(denoised, arrays["denoised"]) < TOLERANCE


def test_gamma_vae() -> None:
    settings, state, arrays = _case("gamma_vae_l128")
    read = infer.vae_settings({k: torch.from_numpy(v) for k, v in state.items()})
    assert {k: read[k] for k in read} == {k: settings[k] for k in read}
    vae = edmlx.load_vae(settings, state)
    a, b = vae.encode(arrays["x"])
    assert _difference(a, arrays["raw_alpha"]) < TOLERANCE
    assert _difference(b, arrays["raw_beta"]) < TOLERANCE
    assert _difference(vae.latent(arrays["x"], arrays["mask"]), arrays["latent"]) < TOLERANCE
    decoded = vae.decode(arrays["latent"], arrays["mask"])
    assert _difference(decoded, arrays["reconstruction"]) < TOLERANCE
