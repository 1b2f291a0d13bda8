"""Commands that draw synthetic datasets: generate, and noise-dataset as the floor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import begin, done, one_of, say
from cli.options import SOLVER_HELP, Checkpoint, Device, DryRun, Maps, Precision, Seed, Vae

if TYPE_CHECKING:
    from echo_synth.generation.engine import ImageGenerator
    from echo_synth.generation.request import Generation, MapPlan
    from echo_synth.generation.run import ImageSource
    from echo_synth.generation.shards import Shard
    from echo_synth.generation.targets import Target, TargetRequest
    from echo_synth.generation.writer import DatasetWriter

_SMALL_BATCH = 8
_MANY_EVALUATIONS = 2000  # fewer are done within the hour; measuring them is not worth its time


Nfe = Annotated[int | None, typer.Option(min=1, max=10000, help="Network evaluations per image, exact; not for bmode.")]
Count = Annotated[int | None, typer.Option(min=1, help="Number of images; default: one per map.")]
Solver = Annotated[
    str,
    typer.Option(help=f"auto (the best by study-solvers, of this run, else of this model; else heun), {SOLVER_HELP}"),
]
NewId = Annotated[
    int | None,
    typer.Option(
        help="nnU-Net id; default: that of an unfinished dataset with these settings, else the next free from 601."
    ),
]
Classification = Annotated[Path | None, typer.Option(help="Folder for the classification copy.")]
Batch = Annotated[int, typer.Option(min=1, help="Images at once.")]
Fast = Annotated[str, typer.Option(help="on, or off: slower plain computation, for comparison.")]
TextureOption = Annotated[
    str,
    typer.Option(
        "--texture",
        help="Add fine speckle: on, off, or auto (on if the Γ-VAE's run has measured the speckle that its decoder loses).",
    ),
]
ModulationMemory = Annotated[
    int, typer.Option(min=0, help="MiB for SPADE modulations that are kept; the rest is recomputed in each evaluation.")
]
Compiled = Annotated[bool, typer.Option("--compile", help="torch.compile, with CUDA graphs on a GPU; slow to start.")]
ShardOption = Annotated[str, typer.Option("--shard", help="i/n: this is process i of n, i from 0.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("generate")(generate)
    app.command("noise-dataset")(noise_dataset)


def generate(
    model: Annotated[
        str,
        typer.Option(
            help="sdm, ve, vp, edm, edm-l128 or edm-l64; or bmode: simulated physics, no network, without --nfe."
        ),
    ],
    nfe: Nfe = None,
    checkpoint: Checkpoint = None,
    vae: Vae = None,
    maps: Maps = None,
    count: Count = None,
    solver: Solver = "auto",
    seed: Seed = 0,
    dataset_id: NewId = None,
    classification: Classification = None,
    batch: Batch = 8,
    precision: Precision = "auto",
    texture: TextureOption = "auto",
    fast: Fast = "on",
    modulation_memory: ModulationMemory = 4096,
    compiled: Compiled = False,
    shard: ShardOption = "0/1",
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Generate a synthetic dataset: nnU-Net's raw format and a classification folder; run again to resume.

    Example: echosynth generate --model edm-l64 --nfe 100
    """
    from echo_synth.generation import physics
    from echo_synth.generation.request import Generation, plan_from, refuse_other_subject, sampler_for
    from echo_synth.generation.shards import parse_shard
    from echo_synth.generation.solver_choice import check_solver
    from echo_synth.generation.sources import choose_model
    from echo_synth.generation.targets import TargetRequest
    from echo_synth.runs.find import describe_choice

    part = parse_shard(shard)
    one_of("--fast", fast, ("on", "off"))
    if model == physics.MODEL:
        chosen_ways = {
            "--solver": solver if solver != "auto" else None,
            "--texture": texture if texture != "auto" else None,
            "--compile": compiled or None,
        }
        _refuse_for_bmode({"--nfe": nfe, "--checkpoint": checkpoint, "--vae": vae, **chosen_ways})
        _render(maps, count, seed, dataset_id, classification, part, dry_run)
        return
    if nfe is None:
        raise typer.BadParameter("missing; expected the network's evaluations an image, e.g. 20", param_hint="--nfe")
    check_solver(solver if solver != "auto" else "heun")
    one_of("--texture", texture, ("auto", "on", "off"))
    few = nfe if solver == "auto" else None
    chosen = choose_model(model, checkpoint, vae, device, precision, few).with_texture(texture)
    plan = plan_from(maps, count, seed, chosen.run.description.trained_on)
    refuse_other_subject(chosen.run, plan.maps)
    sampler = sampler_for(chosen, nfe, solver)
    work = Generation(chosen, sampler, plan, batch, fast == "on", compiled, modulation_memory << 20)
    request = TargetRequest(dataset_id, work.name, work.identity(), classification)
    say(f"weights: {describe_choice(chosen.run)}\nmaps: {plan.maps.path}")
    _draw(work, request, part, dry_run)


def _draw(work: Generation, request: TargetRequest, part: Shard, dry_run: bool) -> None:
    from echo_synth.generation import run
    from echo_synth.generation.request import shown_settings
    from echo_synth.generation.sources import SampledImages
    from echo_synth.generation.targets import check_ours, choose_target, make_target
    from echo_synth.generation.writer import DatasetWriter
    from echo_synth.interrupt import continue_with, resume_hint
    from echo_synth.training.distributed import on_main

    def settings_of(target: Target) -> dict[str, Any]:
        shown = shown_settings(request.identity, work.plan.maps, target)
        return begin("generate", {**shown, "checkpoint": work.model.run.folder}, dry_run)

    if dry_run:
        target = choose_target(request)
        _say_how_long(work, work.load(), always=True)
        settings_of(target)
    target = on_main(work.model.device, lambda: make_target(request, settings_of))
    rows, seed = work.plan.rows, work.plan.seed
    writer = DatasetWriter(target.raw, target.classification, rows, part, work.plan.maps.subject)
    with writer.opened(), resume_hint(continue_with(), lambda: _saved(writer)):
        check_ours(target, request)
        generator = work.load()
        _say_how_long(work, generator)
        source = SampledImages(generator, work.sampler, work.model.precision, say)
        facts = work.facts(request.identity)
        drawn = run.generate(source, work.plan.maps, writer, seed, work.batch, work.recorded(), facts)
    state = "complete" if drawn.complete else "other shards are still to come"
    done(
        f"drew {drawn.images} images in {drawn.seconds:.1f} s; {run.total_cases(rows)}, {state}",
        f"nnU-Net raw dataset: {target.raw}",
        f"classification folder: {target.classification}",
    )


def _say_how_long(work: Generation, generator: ImageGenerator, always: bool = False) -> None:
    """The estimate, where it is over an hour or asked for."""
    from echo_synth.generation.estimate import estimate_generation

    rows = work.plan.rows
    if not always and (work.compiled or len(rows) * work.sampler.nfe < _MANY_EVALUATIONS):
        return
    expected = estimate_generation(generator, work.sampler, work.plan.maps, rows, work.batch)
    if always:
        say(f"estimate: {expected}")
    elif expected.is_long:
        say(f"this takes {expected}; it can be interrupted, the same command continues it")


def _saved(writer: DatasetWriter) -> str:
    return f"{writer.raw}: {int((~writer.missing()).sum())} of {len(writer.rows)} images are there"


def noise_dataset(
    maps: Maps = None,
    count: Count = None,
    seed: Seed = 0,
    dataset_id: NewId = None,
    classification: Classification = None,
    dry_run: DryRun = False,
) -> None:
    """Fill maps with noise textures: a dataset with outlines but no image content, as lower bound in comparisons.

    Example: echosynth noise-dataset --count 1800
    """
    from echo_synth.generation.noise import NoiseTextures
    from echo_synth.generation.request import plan_from
    from echo_synth.generation.shards import WHOLE
    from echo_synth.generation.targets import TargetRequest

    plan = plan_from(maps, count, seed)
    recorded = {"model": "noise", "nfe": 0, "seed": seed}
    request = TargetRequest(dataset_id, "Noise", recorded | plan.identity(), classification)
    done(*_fill("noise-dataset", NoiseTextures(), plan, request, recorded, WHOLE, dry_run))


def _refuse_for_bmode(given: Mapping[str, object]) -> None:
    """What only networks have."""
    for option, value in given.items():
        if value is not None:
            why = f"'{value}'; --model bmode has no network: leave {option} out"
            raise typer.BadParameter(why, param_hint=option)


def _render(
    maps: Path | None,
    count: int | None,
    seed: int,
    dataset_id: int | None,
    classification: Path | None,
    part: Shard,
    dry_run: bool,
) -> None:
    """A dataset by simulated physics; every image by itself, so that neither batch nor shards change it."""
    from echo_synth.data.subject import need_heart
    from echo_synth.generation import physics
    from echo_synth.generation.request import plan_from
    from echo_synth.generation.targets import TargetRequest

    plan = plan_from(maps, count, seed)
    need_heart(plan.maps.subject, f"--model {physics.MODEL}", "train a model, or take noise-dataset")
    recorded = {"model": physics.MODEL, "model_hash": physics.RENDERER, "nfe": 0, "seed": seed}
    request = TargetRequest(dataset_id, "Bmode", recorded | plan.identity(), classification)
    say(f"maps: {plan.maps.path}")
    done(*_fill("generate", physics.BmodeImages(plan.rows), plan, request, recorded, part, dry_run))


def _fill(
    command: str,
    source: ImageSource,
    plan: MapPlan,
    request: TargetRequest,
    recorded: Mapping[str, object],
    part: Shard,
    dry_run: bool,
) -> tuple[str, ...]:
    """A dataset that no network draws; returns what to say of it."""
    from echo_synth.generation import run
    from echo_synth.generation.facts import dataset_facts
    from echo_synth.generation.request import shown_settings
    from echo_synth.generation.targets import check_ours, choose_target, make_target
    from echo_synth.generation.writer import DatasetWriter
    from echo_synth.interrupt import continue_with, resume_hint
    from echo_synth.training.distributed import on_main

    def settings_of(target: Target) -> dict[str, Any]:
        return begin(command, shown_settings(request.identity, plan.maps, target), dry_run)

    if dry_run:
        settings_of(choose_target(request))
    target = on_main("cpu", lambda: make_target(request, settings_of))
    writer = DatasetWriter(target.raw, target.classification, plan.rows, part, plan.maps.subject)
    facts = dataset_facts(command, recorded, plan.rows, plan.maps.path, str(request.identity["maps_hash"]))
    with writer.opened(), resume_hint(continue_with(), lambda: _saved(writer)):
        check_ours(target, request)
        drawn = run.generate(source, plan.maps, writer, plan.seed, _SMALL_BATCH, recorded, facts)
    state = "" if drawn.complete else "; other shards are still to come"
    return (
        f"{run.total_cases(plan.rows)}{state}",
        f"nnU-Net raw dataset: {target.raw}",
        f"classification folder: {target.classification}",
    )
