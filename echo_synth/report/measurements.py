"""Folders that measuring commands leave: numbers, tables and a figure, all of one piece."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from echo_synth import checksums, specs
from echo_synth.errors import DataError
from echo_synth.evaluation.latent_prior import Counts
from echo_synth.evaluation.solver_study import SolverStudy
from echo_synth.evaluation.throughput import Benchmark
from echo_synth.evaluation.vae_quality import LATENT_BINS, VaeQuality
from echo_synth.files import check_writable, read_json, write_bytes, write_json, write_text
from echo_synth.outputs import check_file, new_results
from echo_synth.report import figures
from echo_synth.report.figures import png
from echo_synth.runs.folder import STUDY_FILES

PRIOR_FILES = ("gamma_prior.json", "gamma_prior.png")  # the first one comes last
VAE_FILES = ("vae_quality.json", "latents.png", "reconstructions.png")
BENCHMARK_FILES = ("throughput.csv", "throughput.png", "stages.csv")
_DIGITS = "%.6g"


def write_prior(counts: Counts, prior: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]) -> None:
    """gamma_prior.json and gamma_prior.png of `latent_prior.summary`."""
    with new_results(folder, "fit-prior", PRIOR_FILES) as new:
        write_json(new / "settings.json", dict(settings))
        write_bytes(new / "gamma_prior.png", png(figures.prior_densities(counts, prior)))
        write_json(new / "gamma_prior.json", prior)


def write_vae_quality(measured: Mapping[str, VaeQuality], folder: Path, settings: Mapping[str, Any]) -> None:
    """vae_quality.json, latents.png and reconstructions.png of VAEs by name."""
    densities = {name: (m.latent_density, m.prior_density) for name, m in measured.items()}
    rows = ("original", "latent", "reconstruction")
    images = {name: m.pictures for name, m in measured.items()}
    with new_results(folder, "inspect-vae", VAE_FILES) as new:
        write_json(new / "settings.json", dict(settings))
        write_bytes(new / "latents.png", png(figures.latent_histograms(densities, np.asarray(LATENT_BINS))))
        write_bytes(new / "reconstructions.png", png(figures.image_rows(images, rows)))
        write_json(new / "vae_quality.json", {name: m.numbers for name, m in measured.items()})


def check_solver_study(run: Path, out: Path | None, overwrite: bool) -> Path:
    """The folder that study-solvers writes into: the run's own, which `generate --solver auto` reads, or `out`.

    Raises:
        DataError: the run belongs to the package, where nothing is written; or the folder is not writable.
        ExistsError: a study is there and `overwrite` is not given, or something else of that name.
    """
    if out is None and run.is_relative_to(specs.root()):
        raise DataError(f"{run}: these weights belong to the package; pass --out, or --checkpoint with a run of yours")
    folder = (out or run).absolute()
    check_writable(folder)
    ours = is_solver_study(folder / "solvers.json")
    for name in STUDY_FILES:
        check_file(folder / name, overwrite, ours)
    return folder


def is_solver_study(path: Path) -> bool:
    """Whether a file is the solvers.json of a study."""
    if not path.is_file():
        return False
    try:
        content = read_json(path)
    except DataError:
        return False
    return isinstance(content, dict) and {"recommended", "converged_nfe"} <= set(content)


def write_solver_study(study: SolverStudy, title: str, folder: Path) -> None:
    """solvers.csv, solvers.png, of a search schedules.csv, and solvers.json, which `generate --solver auto` reads."""
    curves = figures.convergence_curves(study.table, f"{title}: distance from {study.converged_nfe} NFE")
    with new_results(folder, None, STUDY_FILES) as new:
        write_text(new / "solvers.csv", study.table.to_csv(index=False, float_format=_DIGITS))
        write_bytes(new / "solvers.png", png(curves))
        for name, table in study.tables.items():
            write_text(new / name, table.to_csv(index=False, float_format=_DIGITS))
        write_json(new / "solvers.json", study.summary())
    checksums.renew(folder, STUDY_FILES)


def write_benchmark(measured: Benchmark, folder: Path, settings: Mapping[str, Any]) -> None:
    """throughput.csv, stages.csv and throughput.png."""
    with new_results(folder, "benchmark", BENCHMARK_FILES) as new:
        write_json(new / "settings.json", dict(settings))
        write_text(new / "stages.csv", measured.stages.to_csv(index=False, float_format=_DIGITS))
        write_bytes(new / "throughput.png", png(figures.throughput_curves(measured.table, measured.sdm_reference)))
        write_text(new / "throughput.csv", measured.table.to_csv(index=False, float_format=_DIGITS))
