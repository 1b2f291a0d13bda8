"""What the page shows (metrics, quality, histories, sweeps, settings, pictures), and masks to evaluate, damaged."""

from __future__ import annotations

import copy
import gzip
import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echo_synth.data.nifti import read_pixels
from echo_synth.evaluation.segmentation import evaluate_segmentation
from echo_synth.evaluation.statistics import Resampling
from echo_synth.report.evaluation import write_evaluation
from echo_synth.report.page import build
from tests.fuzz.harness import Kind, mutate
from tests.report.tables import QUALITY, sweep_table

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
_HISTORY = (
    b"images,step,split,name,value,lr,images_per_second\n4,1,train,loss,0.5,0.001,1.0\n4,1,val,mse,0.5,0.001,1.0\n"
)
_COMPARISONS = (
    b"comparison,cell,baseline,structure,metric,difference,low,high,p,p_holm\n"
    b"one,a,b,lv_endo,dice,0.1,0.05,0.2,0.01,0.02\n"
)
_CORRELATIONS = (
    b"measure,real_is,outcome,better_is,rho,low,high,cells,patients\n"
    b"agreement,high,dice_lv_endo,high,0.5,-0.1,1,5,6\ngrain_difference,low,ef_mae,low,,,,4,6\n"
)
_JUDGED = sweep_table().assign(agreement=0.5, grain_ratio=[0.5, 0.9, 1.0, 1.1, 1.2, None]).to_csv(index=False).encode()
_SETTINGS = b'{"command": "generate", "model": 1, "nfe": 20}'
_FOREIGN = (
    b"",
    b"[]",
    b"5",
    b"null",
    b"{}",
    b"\xff\xfe",
    b"a,b,c\n1,2,3\n",
    b'{"accuracy": 0.9}',
    b"[" * 99999,
    b"epoch,loss\n1,0.5\n",
)
_VALUES = (
    None,
    "x",
    -1,
    1e308,
    [],
    {},
    MARKUP,
    True,
    float("nan"),
    [None, None],
    "9" * 5000,
    "$a^$",
    "\ud800",
    10**400,
)
_WORDS = (MARKUP.replace(",", "").encode(), b"nan", b"", b"x", b"inf", b"$\\frac$")
_TIME = Resampling(20)


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """The page, and the evaluation of damaged masks."""
    references = next((base / "home/nnunet/raw").glob("Dataset501_*")) / "labelsTs"
    return [_page(references, scratch), _masks(references, scratch)]


def _page(references: Path, scratch: Path) -> Kind:
    evaluated = evaluate_segmentation(references, references, _TIME, {"other": references}, workers=1)
    write_evaluation(scratch / "evaluation", {"a": 1}, evaluated, references)
    files = {
        "metrics.json": (scratch / "evaluation/metrics.json").read_bytes(),
        "quality.json": json.dumps(QUALITY).encode(),
        "history.csv": _HISTORY,
        "results.csv": _JUDGED,
        "comparisons.csv": _COMPARISONS,
        "correlations.csv": _CORRELATIONS,
        "settings.json": _SETTINGS,
        "preview.png": b"\x89PNG\r\n\x1a\n",
    }

    def make(rng: random.Random, _: int) -> tuple[str, bytes]:
        name = rng.choice(list(files))
        how = rng.randrange(4)
        if how == 0:
            return name, mutate(rng, files[name])
        if how == 1:
            return name, rng.choice(_FOREIGN)
        if name.endswith(".json"):
            return name, _damaged_json(rng, json.loads(files[name]))
        word = rng.choice([b"edm", b"0.5", b"1", b",", b"loss", b"lv_endo", b"done"])
        return name, files[name].replace(word, rng.choice(_WORDS))

    def read(case: tuple[str, bytes]) -> None:
        folder = scratch / "page"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "x").mkdir(parents=True)
        tables = dict.fromkeys(("comparisons.csv", "correlations.csv"), "results.csv")
        beside = ({"settings.json": "preview.png"} | tables).get(case[0])
        if beside:
            (folder / "x" / beside).write_bytes(files[beside])
        (folder / "x" / case[0]).write_bytes(case[1])
        page = build(folder)
        page.encode("utf-8")
        assert "<script" not in page
        assert "<img src=x" not in page

    return Kind("report", make, read)


def _places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside `content`."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from _places(inner, (*at, key))


def _damaged_json(rng: random.Random, content: Any) -> bytes:
    """One value replaced or removed, or one key renamed."""
    content = copy.deepcopy(content)
    *way, last = rng.choice(list(_places(content)))
    holder = content
    for key in way:
        holder = holder[key]
    how = rng.randrange(3)
    if how == 0 or isinstance(holder, list):
        holder[last] = rng.choice(_VALUES)
    elif how == 1:
        del holder[last]
    else:
        holder[MARKUP] = holder.pop(last)
    return json.dumps(content).encode()


def _masks(references: Path, scratch: Path) -> Kind:
    whole = {f.name: gzip.decompress(f.read_bytes()) for f in sorted(references.glob("*.nii.gz"))}
    damages: tuple[Callable[[random.Random, bytearray], None], ...] = (
        lambda rng, b: b.__setitem__(slice(None), mutate(rng, bytes(b), 1)),
        lambda rng, b: struct.pack_into("<2f", b, 80, *[rng.choice([0.0, -1.0, float("nan"), 5.0, 1e-30])] * 2),
        lambda rng, b: b.__setitem__(352 + rng.randrange(len(b) - 352), rng.choice([4, 5, 255])),
        lambda rng, b: b.__setitem__(slice(352, None), bytes([rng.choice([0, 1, 2, 3])]) * (len(b) - 352)),
        lambda rng, b: struct.pack_into("<2h", b, 42, rng.choice([128, 512]), rng.choice([512, 128])),
    )

    def make(rng: random.Random, _: int) -> tuple[str, bytes, str]:
        name = rng.choice(list(whole))
        damaged = bytearray(whole[name])
        rng.choice(damages)(rng, damaged)
        return name, bytes(damaged), rng.choice(["p", "r"])

    def read(case: tuple[str, bytes, str]) -> None:
        name, content, side = case
        for folder in (scratch / "p", scratch / "r"):
            folder.mkdir(exist_ok=True)
            for file, mask in whole.items():
                (folder / file).write_bytes(gzip.compress(mask, 1))
        (scratch / side / name).write_bytes(gzip.compress(content, 1))
        result = evaluate_segmentation(scratch / "p", scratch / "r", _TIME, workers=1)
        assert set(np.unique(read_pixels(scratch / side / name))) <= {0, 1, 2, 3}, "an unknown label passes"
        assert not pd.isna(result.tables.per_case["case"]).any()

    return Kind("evaluation of masks", make, read)
