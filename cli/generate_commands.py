"""Commands that draw synthetic datasets: generate, and noise-dataset as the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import begin, done, one_of, say
from cli.options import SOLVER_HELP, Checkpoint, Device, DrawingPrecision, DryRun, Maps, Seed, SigmaMax, Vae

if TYPE_CHECKING:
    from echo_synth.estimate import Estimate
    from echo_synth.generation.processes import Division
    from echo_synth.generation.request import Generation, MapPlan
    from echo_synth.generation.run import Drawn, ImageSource
    from echo_synth.generation.shards import Shard
    from echo_synth.generation.targets import Target, TargetRequest
    from echo_synth.generation.task import Task
    from echo_synth.generation.writer import DatasetWriter

_SMALL_BATCH = 8
_RENDERING_SECONDS = 0.1 * _SMALL_BATCH  # of a batch by physics, on one core
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
Processes = Annotated[
    int | None,
    typer.Option(
        help="Processes that generate at once on a CPU; the images stay the same. Default: one per core where that is faster, one with --shard.",
    ),
]


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
    sigma_max: SigmaMax = None,
    seed: Seed = 0,
    dataset_id: NewId = None,
    classification: Classification = None,
    batch: Batch = 8,
    precision: DrawingPrecision = "auto",
    texture: TextureOption = "auto",
    fast: Fast = "on",
    modulation_memory: ModulationMemory = 4096,
    compiled: Compiled = False,
    shard: ShardOption = "0/1",
    processes: Processes = None,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Generate a synthetic dataset: nnU-Net's raw format and a classification folder; run again to resume.

    Example: echosynth generate --model edm-l64 --nfe 100
    """
    from echo_synth import specs
    from echo_synth.generation import physics
    from echo_synth.generation.request import Generation, plan_from, refuse_other_subject, sampler_for
    from echo_synth.generation.shards import parse_shard
    from echo_synth.generation.solver_choice import check_solver
    from echo_synth.generation.sources import choose_model
    from echo_synth.generation.targets import TargetRequest
    from echo_synth.generation.ways import check_ways
    from echo_synth.runs.find import describe_choice

    part = parse_shard(shard)
    one_of("--fast", fast, ("on", "off"))
    if model == physics.MODEL:
        chosen_ways = {
            "--solver": solver if solver != "auto" else None,
            "--sigma-max": sigma_max,
            "--texture": texture if texture != "auto" else None,
            "--compile": compiled or None,
        }
        _refuse_for_bmode({"--nfe": nfe, "--checkpoint": checkpoint, "--vae": vae, **chosen_ways})
        _render(maps, count, seed, dataset_id, classification, part, processes, dry_run)
        return
    specs.diffusion_model(model)
    if nfe is None:
        raise typer.BadParameter("missing; expected the network's evaluations an image, e.g. 20", param_hint="--nfe")
    check_solver(solver if solver != "auto" else "heun")
    one_of("--texture", texture, ("auto", "on", "off"))
    check_ways(precision, compiled)
    few = nfe if solver == "auto" else None
    chosen = choose_model(model, checkpoint, vae, device, precision, few).with_texture(texture)
    plan = plan_from(maps, count, seed, chosen.run.description.trained_on)
    refuse_other_subject(chosen.run, plan.maps)
    sampler = sampler_for(chosen, nfe, solver, sigma_max)
    work = Generation(chosen, sampler, plan, batch, fast == "on", compiled, modulation_memory << 20)
    request = TargetRequest(dataset_id, work.name, work.identity(), classification)
    say(f"weights: {describe_choice(chosen.run)}\nmaps: {plan.maps.path}")
    _draw(work, request, part, processes, dry_run)


def _draw(work: Generation, request: TargetRequest, part: Shard, processes: int | None, dry_run: bool) -> None:
    from echo_synth.generation.request import shown_settings
    from echo_synth.generation.targets import choose_target, make_target
    from echo_synth.generation.task import Task
    from echo_synth.training.distributed import on_main

    asked = _asked(processes, part, work.model.device)

    def settings_of(target: Target) -> dict[str, Any]:
        shown = shown_settings(request.identity, work.plan.maps, target)
        return begin("generate", {**shown, "checkpoint": work.model.run.folder}, dry_run)

    def task_of(target: Target) -> Task:
        facts = work.facts(request.identity)
        return Task(partial(work.source, say), work.plan, work.batch, request, target, work.recorded(), facts)

    if dry_run:
        task = task_of(choose_target(request))
        _say_estimate(task, part, _divide(work, task, part, asked))
        settings_of(task.target)
    task = task_of(on_main(work.model.device, lambda: make_target(request, settings_of)))
    drawn = _carry_out(task, part, _divide(work, task, part, asked), _is_much(work))
    state = "complete" if drawn.complete else "other shards are still to come"
    done(
        f"drew {drawn.images} images in {drawn.seconds:.1f} s; {_of(task)}, {state}",
        f"nnU-Net raw dataset: {task.target.raw}",
        f"classification folder: {task.target.classification}",
    )


def _asked(processes: int | None, part: Shard, device: str) -> int | None:
    """Processes asked for: --processes; one with --shard, and on a GPU. None: as many as pay.

    Raises BadParameter for several on a GPU.
    """
    if device.startswith("cuda"):
        if (processes or 1) > 1:
            why = f"'{processes}'; on a GPU one process draws: leave it out, and give each GPU a --shard"
            raise typer.BadParameter(why, param_hint="--processes")
        return 1
    return 1 if processes is None and part.count > 1 else processes


def _divide(work: Generation, task: Task, part: Shard, asked: int | None) -> Division:
    """Into how many processes."""
    import torch

    from echo_synth.generation.processes import divide
    from echo_synth.parallel import allowed_cores, available_memory

    chunks = len(task.progress(part).todo)
    seconds = chunks * work.batch * work.rough_seconds()
    cores = min(allowed_cores(), torch.get_num_threads())
    return divide(asked, cores, chunks, seconds, work.process_bytes(), available_memory())


def _carry_out(task: Task, part: Shard, division: Division, much: bool) -> Drawn:
    """Draw in this process, or in several. `much`: say so where it takes over an hour."""
    from echo_synth.generation.processes import draw_together
    from echo_synth.interrupt import continue_with, resume_hint

    with resume_hint(continue_with(), lambda: _saved(task.writer(part))):
        if division.processes > 1:
            say(f"drawing in {division}")
            return draw_together(task, part, division, _tell_if_long if much else None)
        return task.draw(part, lambda source: _tell_if_long(task.expect(source, part)) if much else None)


def _is_much(work: Generation) -> bool:
    """Whether to measure how long it takes: fewer evaluations are done within the hour, and compiling takes minutes."""
    return not work.compiled and len(work.plan.rows) * work.sampler.nfe >= _MANY_EVALUATIONS


def _say_estimate(task: Task, part: Shard, division: Division) -> None:
    from echo_synth.generation.processes import estimate_together

    if division.processes > 1:
        say(f"estimate: {estimate_together(task, part, division)}, in {division}")
    else:
        say(f"estimate: {task.expect(task.source(), part)}")


def _tell_if_long(expected: Estimate) -> None:
    if expected.is_long:
        say(f"this takes {expected}; it can be interrupted, the same command continues it")


def _of(task: Task) -> str:
    """'1800 images of 450 patients'."""
    from echo_synth.generation.run import total_cases

    return total_cases(task.plan.rows)


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
    done(*_fill("noise-dataset", NoiseTextures, plan, request, recorded, WHOLE, 1, dry_run))


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
    processes: int | None,
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
    source = partial(physics.BmodeImages, plan.rows)
    done(*_fill("generate", source, plan, request, recorded, part, processes, dry_run))


def _fill(
    command: str,
    source: Callable[[], ImageSource],
    plan: MapPlan,
    request: TargetRequest,
    recorded: Mapping[str, object],
    part: Shard,
    processes: int | None,
    dry_run: bool,
) -> tuple[str, ...]:
    """A dataset that no network draws; returns what to say of it."""
    from echo_synth.generation.facts import dataset_facts
    from echo_synth.generation.processes import divide
    from echo_synth.generation.request import shown_settings
    from echo_synth.generation.targets import choose_target, make_target
    from echo_synth.generation.task import Task
    from echo_synth.parallel import allowed_cores
    from echo_synth.training.distributed import on_main

    def settings_of(target: Target) -> dict[str, Any]:
        return begin(command, shown_settings(request.identity, plan.maps, target), dry_run)

    if dry_run:
        settings_of(choose_target(request))
    target = on_main("cpu", lambda: make_target(request, settings_of))
    facts = dataset_facts(command, recorded, plan.rows, plan.maps.path, str(request.identity["maps_hash"]))
    task = Task(source, plan, _SMALL_BATCH, request, target, recorded, facts)
    chunks, asked = len(task.progress(part).todo), _asked(processes, part, "cpu")
    drawn = _carry_out(task, part, divide(asked, allowed_cores(), chunks, chunks * _RENDERING_SECONDS), False)
    state = "" if drawn.complete else "; other shards are still to come"
    return (
        f"{_of(task)}{state}",
        f"nnU-Net raw dataset: {target.raw}",
        f"classification folder: {target.classification}",
    )
