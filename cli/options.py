"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DatasetId = Annotated[int, typer.Option("--dataset-id", help="nnU-Net id of the converted dataset, 1 to 999.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and write nothing.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing result, once the new one is complete.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Size = Annotated[str, typer.Option("--size", help="Network size: tiny, small, base or paper; for Γ-VAE 64 also light.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default: a new one below ECHOSYNTH_HOME/runs.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    str, typer.Option("--precision", help="auto (bf16 where the hardware has it), fp32, bf16 or fp16.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or the newest unfinished one.")]
SOLVER_HELP = "heun, euler, dpmpp-2m, unipc, or ddpm (ancestral)."
Model = Annotated[str, typer.Option(help="sdm, ve, vp, edm, edm-l128 or edm-l64.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Run folder; default: the newest, else the bundled weights.")]
Vae = Annotated[Path | None, typer.Option(help="Γ-VAE run; default: the one the model was trained with.")]
Maps = Annotated[Path | None, typer.Option(help="Map folder; default: the newest, else the bundled maps.")]
