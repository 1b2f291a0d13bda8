"""Pack trained runs and maps into data_specs/bundled: fp16 weights, descriptions, the Γ-VAE's texture, 200 maps.

Usage: python docs/recipes/pack_bundled.py VAE_RUN EDM_RUN DISTILLED_RUN MAPS OUT
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from echo_synth.files import write_json
from echo_synth.runs.folder import DESCRIPTION, TEXTURE, WEIGHTS, Run, file_hash, open_run
from echo_synth.runs.tensors import load_tensors, save_tensors

MAPS = 200


def pack_run(run: Run, folder: Path, vae_hash: str | None = None) -> None:
    """Weights in fp16 and their description; the description names the packed Γ-VAE."""
    folder.mkdir(parents=True)
    tensors, _ = load_tensors(run.weights)
    save_tensors(folder / WEIGHTS, {k: v.to(torch.float16) if v.is_floating_point() else v for k, v in tensors.items()})
    write_json(folder / DESCRIPTION, run.description.as_json() | ({"vae": vae_hash} if vae_hash else {}))


def pack_texture(source: Path, folder: Path) -> None:
    """The texture of a Γ-VAE, as that of its packed weights."""
    tensors, facts = load_tensors(source / TEXTURE)
    save_tensors(folder / TEXTURE, tensors, facts | {"weights": file_hash(folder / WEIGHTS)})


def renamed(name: str) -> str:
    """Simulated people are not the patients of a real dataset, whose names the phantom borrows: patient0001 is phantom0001."""
    return name.replace("patient", "phantom", 1)


def pack_maps(source: Path, folder: Path) -> None:
    """An even selection of maps with their index, under names that no real patient has."""
    index = pd.read_parquet(source / "index.parquet")
    # Whole patients, so that both views, ED and ES and the EF between them stay together.
    patients = index["patient"].unique()
    kept = patients[np.linspace(0, len(patients) - 1, MAPS // 4).round().astype(int)]
    chosen = index[index["patient"].isin(kept)].reset_index(drop=True)
    folder.mkdir(parents=True)
    for name in chosen["map"]:
        shutil.copy(source / f"{name}.png", folder / f"{renamed(name)}.png")
    for column in ("map", "source_case", "patient"):
        chosen[column] = chosen[column].map(renamed)
    chosen.to_parquet(folder / "index.parquet", index=False)
    held_out = json.loads((source / "held_out.json").read_text(encoding="utf-8"))
    write_json(folder / "held_out.json", [renamed(name) for name in held_out])
    settings = json.loads((source / "settings.json").read_text(encoding="utf-8"))
    kept = {k: settings[k] for k in ("seed", "transformations")} | {
        "source": "simulated patients, docs/recipes/train_bundled.sh"
    }
    write_json(folder / "settings.json", kept)


def main(vae: str, edm: str, distilled: str, maps: str, out: str) -> None:
    """Replace OUT."""
    target = Path(out)
    shutil.rmtree(target, ignore_errors=True)
    pack_run(open_run(Path(vae), "vae"), target / "gamma-vae-64")
    pack_texture(Path(vae), target / "gamma-vae-64")
    vae_hash = file_hash(target / "gamma-vae-64" / WEIGHTS)
    pack_run(open_run(Path(edm), "diffusion"), target / "edm-l64", vae_hash)
    pack_run(open_run(Path(distilled), "diffusion"), target / "edm-l64-few", vae_hash)
    pack_maps(Path(maps), target / "maps")
    size = sum(f.stat().st_size for f in target.rglob("*.safetensors"))
    print(f"{target}: weights {size / 1e6:.2f} MB, {len(list((target / 'maps').glob('*.png')))} maps")


if __name__ == "__main__":
    main(*sys.argv[1:])
