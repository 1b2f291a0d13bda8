"""What each stage between a real image and a drawn one teaches: a segmenter trained on it, judged on the held-out patients.

    python docs/recipes/decomposition_taught.py --dataset-id 501 --maps MAPS --out FOLDER [--run RUN] [--count 600] [--epochs 8]

The stages of decomposition.py, of training patients, in datasets with ids from --first-id on; one training of
`nnUNetTrainerEchoSynth_cpu` each, of 60 iterations an epoch. FOLDER gets the predictions of the held-out patients by stage, evaluation/ what `bootstrap-eval` says of
them against real images, and taught.csv a row a stage. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from decomposition import STAGES, Cases, Pixels, generator_of, generators, images_of, of_maps, of_patients, run_parser

from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import write_image
from echo_synth.generation.engine import ImageGenerator
from echo_synth.generation.request import sampler_for
from echo_synth.generation.sources import SampledImages, TrainedModel, choose_model
from echo_synth.types import PHASES, VIEWS


def write_dataset(folder: Path, cases: Cases, images: Iterator[Pixels]) -> None:
    """An nnU-Net raw dataset, without those of `echosynth`'s files that training does not read."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    at = 0
    for batch in images:
        for image in batch:
            spacing = (float(cases.spacing[at, 0]), float(cases.spacing[at, 1]))
            write_image(folder / "imagesTr" / f"{cases.names[at]}_0000.nii.gz", image, spacing)
            write_image(folder / "labelsTr" / f"{cases.names[at]}.nii.gz", cases.labels[at], spacing)
            at += 1
    table = pd.DataFrame({"case": cases.names, "split": "train", "patient": cases.patients})
    tenth = sorted(set(cases.patients))[::10]  # nnU-Net's trainer wants validation patients; nothing is chosen by them
    table.loc[table["patient"].isin(tenth), "split"] = "val"
    table["view"] = [VIEWS[f % 2] for f in cases.frames]
    table["phase"] = [PHASES[f // 2] for f in cases.frames]
    nnunet_raw.write_index(folder, table)  # last: a folder with it is whole


def echosynth(*words: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name("echosynth")), *words], check=True)


def taught(
    stage: str,
    number: int,
    cases: Cases,
    made: dict[str, ImageGenerator],
    chosen: TrainedModel,
    options: argparse.Namespace,
) -> Path:
    """Predictions of the held-out patients by a segmenter of this stage."""
    predictions = Path(options.out / stage)
    if predictions.is_dir():
        return predictions
    raw = nnunet_raw.find(options.dataset_id).path.parent / f"Dataset{number}_STAGE"
    if not (raw / "cases.csv").is_file():
        model = generator_of(stage, made)
        source = SampledImages(model, sampler_for(chosen, options.nfe, "auto"), chosen.precision)
        write_dataset(raw, cases, images_of(stage, cases, model, source))
    trainer = ["--dataset-id", str(number), "--trainer", "nnUNetTrainerEchoSynth_cpu"]
    echosynth("train-segmenter", *trainer, "--epochs", str(options.epochs), "--seed", str(options.seed))
    images = nnunet_raw.find(options.dataset_id).path / "imagesTs"
    echosynth("predict-segmenter", *trainer, "--images", str(images), "--out", str(predictions))
    return predictions


def evaluated(stage: str, predictions: Path, real: Path, references: Path, out: Path) -> dict[str, Any]:
    """Dice, volumes and ejection fraction of one stage, and how they differ from those of real images."""
    folder = out / "evaluation" / stage
    if not (folder / "metrics.json").is_file():
        baseline = [] if stage == "real" else ["--baseline", str(real)]
        words = ["--predictions", str(predictions), *baseline, "--references", str(references), "--out", str(folder)]
        echosynth("bootstrap-eval", *words)
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {"stage": STAGES[stage]}
    row |= {f"dice {name}": measures["dice"]["mean"] for name, measures in found["segmentation"].items()}
    row |= {f"EF {name}": found["volumes"]["ef_percent"][name] for name in ("mae", "bias")}
    for name, measures in found["paired_baselines"].get(real.name, {}).items() if stage != "real" else ():
        row[f"minus real, dice {name}"] = measures["dice"]["mean"]
        row |= dict(zip((f"dice {name} low", f"dice {name} high"), measures["dice"]["ci95"], strict=True))
    return row


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-id", type=int, default=801)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="to divide the work")
    options = parser.parse_args()
    chosen = choose_model(options.model, options.run, None, "auto", "auto")
    made = generators(chosen)
    masks = of_patients(nnunet_raw.find(options.dataset_id), options.count, "train")
    maps = partial(of_maps, options.maps, options.count, masks.real)
    done = {}
    for number, stage in enumerate(STAGES, start=options.first_id):
        if stage in options.only:
            cases = maps() if stage.startswith("deformed") else masks
            done[stage] = taught(stage, number, cases, made, chosen, options)
    if "real" in done:
        references = nnunet_raw.find(options.dataset_id).path / "labelsTs"
        rows = [evaluated(stage, folder, done["real"], references, options.out) for stage, folder in done.items()]
        pd.DataFrame(rows).to_csv(options.out / "taught.csv", index=False)


if __name__ == "__main__":
    main()
