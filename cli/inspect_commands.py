"""Commands that look at data and models: fit-prior, inspect-vae, sample-grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.as_json import Json, print_report
from cli.common import begin, done, one_of, parse_numbers, say
from cli.options import (
    SOLVER_HELP,
    Checkpoint,
    DatasetId,
    Device,
    DrawingPrecision,
    DryRun,
    Model,
    Overwrite,
    Seed,
    SigmaMax,
    Vae,
)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("fit-prior")(fit_prior)
    app.command("inspect-vae")(inspect_vae)
    app.command("sample-grid")(sample_grid)


def fit_prior(
    dataset_id: DatasetId,
    method: Annotated[str, typer.Option(help="Which fit becomes the prior: ml (maximum likelihood) or grid.")] = "ml",
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: ECHOSYNTH_HOME/priors/<dataset>.")] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fit the Γ prior to grey levels inside the sector, training patients; compare with Gaussian and Rayleigh.

    Example: echosynth fit-prior --dataset-id 501
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.data.prepared import prepare
    from echo_synth.evaluation import latent_prior
    from echo_synth.home import home
    from echo_synth.outputs import check_results
    from echo_synth.report.measurements import PRIOR_FILES, write_prior

    one_of("--method", method, latent_prior.METHODS)
    dataset = nnunet_raw.find(dataset_id)
    folder = out.absolute() if out else home() / "priors" / dataset.name
    check_results(folder, "fit-prior", PRIOR_FILES, overwrite)
    resolved = begin("fit-prior", {"dataset": dataset.path, "method": method, "out": folder}, dry_run)
    counts, result = latent_prior.fit_dataset(prepare(dataset), dataset.name, method)
    write_prior(counts, result, folder, resolved)
    if as_json:
        print_report("fit-prior", folder, PRIOR_FILES, result)
        return
    fits = [("maximum likelihood", fit) for fit in result["maximum_likelihood"]]
    for way, fit in (*fits, ("grid search", result["grid_search"]), ("the paper's", result["paper"])):
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in fit["parameters"].items())
        say(f"{fit['name']:9} {way:18} {numbers}: log-likelihood {fit['log_likelihood']:.4f}, KS {fit['ks']:.4f}")
    done(
        f"Γ prior: shape {result['alpha']:.4g}, rate {result['beta']:.4g} ({method})",
        f"wrote {folder}/gamma_prior.json and .png",
    )


def inspect_vae(
    runs: Annotated[list[Path], typer.Argument(help="VAE run folders to compare.")],
    dataset_id: DatasetId,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    split: Annotated[str, typer.Option(help="Cases to measure on: val or train; test cases are never used.")] = "val",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compare VAEs: reconstruction inside the sector, latent against image, latent against prior.

    Example: echosynth inspect-vae runs/vae runs/vae-gaussian --dataset-id 501 --out vae-comparison
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.data.prepared import prepare
    from echo_synth.evaluation.held_out_samples import need_cases
    from echo_synth.evaluation.vae_quality import measure, names_of, networks_of
    from echo_synth.outputs import check_results
    from echo_synth.report.measurements import VAE_FILES, write_vae_quality
    from echo_synth.runs.folder import open_run

    one_of("--split", split, ("train", "val"))
    dataset = nnunet_raw.find(dataset_id)
    need_cases(dataset, split)
    opened = {name: open_run(run.absolute(), "vae") for name, run in names_of(runs).items()}
    check_results(out.absolute(), "inspect-vae", VAE_FILES, overwrite)
    resolved = begin("inspect-vae", {"runs": runs, "dataset_id": dataset_id, "split": split, "out": out}, dry_run)
    data = prepare(dataset)
    measured = {name: measure(vae, data, split) for name, vae in networks_of(opened).items()}
    write_vae_quality(measured, out, resolved)
    if as_json:
        print_report("inspect-vae", out, VAE_FILES, {name: m.numbers for name, m in measured.items()})
        return
    for name, quality in measured.items():
        done(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in quality.numbers.items()))
    done(f"wrote {out}: {', '.join(VAE_FILES)}")


def sample_grid(
    model: Model,
    dataset_id: DatasetId,
    out: Annotated[Path, typer.Option("--out", help="Picture to write (.png).")],
    nfe: Annotated[
        str, typer.Option(help="Network evaluations per image, comma separated: one row each.")
    ] = "5,20,100",
    checkpoint: Checkpoint = None,
    vae: Vae = None,
    count: Annotated[int, typer.Option(min=1, max=16, help="Validation cases: one column each.")] = 4,
    solver: Annotated[
        str, typer.Option(help=f"auto (as in generate; required for distilled runs), {SOLVER_HELP}")
    ] = "heun",
    sigma_max: SigmaMax = None,
    seed: Seed = 0,
    precision: DrawingPrecision = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Make a picture: real validation images, and below them synthetic images of their maps at several NFE (paper's figure 2).

    Example: echosynth sample-grid --model edm-l64 --dataset-id 501 --nfe 5,20,100 --out grid.png
    """
    from echo_synth.data import nnunet_raw
    from echo_synth.data.prepared import prepare
    from echo_synth.evaluation.held_out_samples import draw_held_out, held_out_cases, need_cases
    from echo_synth.files import write_bytes
    from echo_synth.generation.request import refuse_other_views, sampler_for
    from echo_synth.generation.sources import choose_model
    from echo_synth.report.figures import check_image, image_rows, png

    budgets = parse_numbers("--nfe", nfe)
    chosen = choose_model(model, checkpoint, vae, device, precision)
    samplers = [sampler_for(chosen, n, solver, sigma_max) for n in budgets]
    check_image(out.absolute(), overwrite)
    dataset = nnunet_raw.find(dataset_id)
    need_cases(dataset, "val")
    refuse_other_views(chosen.run, dataset)
    begin(
        "sample-grid",
        {"checkpoint": chosen.run.folder, "nfe": budgets, "out": out, "solver": solver, "sigma_max": sigma_max},
        dry_run,
    )
    data = prepare(dataset)
    rows = held_out_cases(data, count)
    images = draw_held_out(chosen.load(), data, rows, samplers, seed)
    labels = ["real", *(f"{n} NFE" for n in budgets)]
    write_bytes(out, png(image_rows({chosen.spec.dataset_name: images}, labels)))
    done(f"wrote {out}: {len(rows)} validation maps, {', '.join(labels)}")
