"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DatasetId = Annotated[int, typer.Option("--dataset-id", help="nnU-Net id of the converted dataset, 1 to 999.")]
GridSize = Annotated[
    int, typer.Option("--size", min=16, max=4096, help="Square grid in pixels; spacing in mm is adapted.")
]
Native = Annotated[bool, typer.Option("--native", help="Keep every image's own grid instead of --size.")]
Classification = Annotated[
    Path | None,
    typer.Option("--classification", help="Classification folder to write; default: below ECHOSYNTH_HOME."),
]
SomePatients = Annotated[
    int | None,
    typer.Option("--patients", min=2, help="Convert only so many patients, spread over the splits; default: all."),
]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Leave out incomplete cases, and patients without images or split."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: all cores.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and write nothing.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing result, once the new one is complete.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
SigmaMax = Annotated[
    float | None,
    typer.Option(
        "--sigma-max",
        help="Start at this noise level, or the nearest that the network knows, instead of the formulation's (80 to 152; images lie between -1 and 1). Noise levels found by study-solvers are not used then.",
    ),
]
Size = Annotated[str, typer.Option("--size", help="Network size: tiny, small, base or paper; for Γ-VAE 64 also light.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default: a new one below ECHOSYNTH_HOME/runs.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    str, typer.Option("--precision", help="auto (bf16 where the hardware has it), fp32, bf16 or fp16.")
]
DrawingPrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto (bf16 where the hardware has it), fp32, bf16, fp16, or int8 (CPUs with VNNI; faster for sizes base and paper).",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or the newest unfinished one.")]
PRICE_HELP = (
    "Price of an hour of what draws, in any currency: of one GPU or core with a benchmark, else of the whole machine."
)
SOLVER_HELP = "heun, euler, dpmpp-2m, unipc, or ddpm (ancestral)."
Model = Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Run folder; default: the newest, else the bundled weights.")]
Vae = Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the model was trained with.")]
Maps = Annotated[Path | None, typer.Option(help="Map folder; default: the newest, else the bundled maps.")]
