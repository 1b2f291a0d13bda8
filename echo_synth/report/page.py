"""report.html: one self-contained page of whatever a folder holds, readable offline, on a phone and in print."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from echo_synth import __version__
from echo_synth.files import read_json
from echo_synth.report import figures, tables

_STYLE = """
:root { color-scheme: light; --ink: #1c2530; --soft: #55606e; --line: #d5dbe2; --accent: #005a8c; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: #fff; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } p { margin: .4rem 0; } .soft, figcaption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin-top: 1rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .2rem; } th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
td { min-width: 5.5rem; } thead th { color: var(--soft); font-weight: 600; } tbody th { min-width: 6rem; } tbody th, thead th:first-child { position: sticky; left: 0; background: #fff; }
figure { margin: .8rem 0; } img { max-width: 100%; height: auto; display: block; } a { color: var(--accent); }
details { margin: .5rem 0; } pre { overflow-x: auto; font-size: .8rem; background: #f5f7f9; padding: .7rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
@media print { body { max-width: none; font-size: 11px; } .scroll { overflow: visible; } table { font-size: 9px; } td, tbody th { min-width: 0; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } details { display: none; } }
"""


# What bootstrap-eval draws: file, alternative text, caption.
_PICTURES = {
    "scores.png": (
        "Box plots of Dice and Hausdorff distance by structure",
        "Each point is one held-out image; with a baseline, a line joins the same image's two points.",
    ),
    "bland_altman.png": (
        "Bland-Altman plots of end-diastolic volume, end-systolic volume and ejection fraction",
        "Each point is a patient; solid line: bias, dashed: limits of agreement.",
    ),
    "classification.png": (
        "Confusion matrix and reliability curve of the view classifier",
        "Left: counts of held-out images. Right: observed share against claimed probability, area by number of images.",
    ),
    "worst.png": (
        "The eight cases of lowest Dice with predicted and reference outlines",
        "The worst cases: prediction solid orange, reference dashed blue.",
    ),
}


# What sweep draws.
_SWEEP_PICTURES = {
    "images.png": (
        "Images by model and number of network evaluations, all of one label map",
        "One label map drawn by every model at every number of network evaluations (NFE).",
    ),
    "scores.png": (
        "Dice, Hausdorff distance and view accuracy against the number of network evaluations",
        "What models trained on synthetic images alone reach on real patients; bands: patient-level 95 % intervals, dashed: trained on real images, dotted: on noise.",
    ),
    "throughput.png": ("Images a second against the number of network evaluations", "Throughput as measured while the sweep ran."),
    "pareto.png": (
        "Dice of the LV endocardium against seconds an image",
        "The grey line joins the cells that no other beats in both; numbers are NFE.",
    ),
}  # fmt: skip
_STAGE = re.compile(r"evaluate-[0-9a-f]{12}")


def table_html(rows: list[list[str]], caption: str, of: str = "") -> str:
    """Rows, the first of them the header, as an accessible table in a scrolling box; `of` tells regions of one caption apart."""
    label = f"{caption}, {of}" if of else caption
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in rows[0])
    body = "".join(
        f'<tr><th scope="row">{escape(r[0])}</th>'
        + "".join(f"<td>{escape(_together(c))}</td>" for c in r[1:])
        + "</tr>"
        for r in rows[1:]
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _together(text: str) -> str:
    """Lines break between mean, interval and p-value, not inside any of them."""
    kept = re.sub(r"(\[[^\]]*), ", "\\1,\u00a0", text).replace(" ± ", "\u00a0±\u00a0")
    return re.sub(r", p (< )?(?=\d)", lambda found: ", " + found[0][2:].replace(" ", "\u00a0"), kept)


def figure_html(data: bytes, alt: str, caption: str) -> str:
    """A PNG embedded in the page."""
    source = base64.b64encode(data).decode("ascii")
    return f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{source}"><figcaption>{escape(caption)}</figcaption></figure>'


def build(folder: Path) -> str:
    """The page for everything found below `folder`: evaluations, datasets, training runs."""
    sections = [*_sweeps(folder), *_evaluations(folder), *_qualities(folder), *_datasets(folder), *_runs(folder)]
    if not sections:
        sections = ["<p>Nothing to report yet: no evaluation, dataset or run was found.</p>"]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>EchoSynth report</title><style>{_STYLE}</style></head><body><header><h1>EchoSynth report</h1>"
        f'<p class="soft">{escape(folder.name)} · made {made} with EchoSynth {__version__}</p></header><main>{"".join(sections)}</main></body></html>'
    )


def _sweeps(folder: Path) -> list[str]:
    result = []
    for file in sorted(folder.rglob("results.csv")):
        table = pd.read_csv(file)
        if "cell" not in table:
            continue
        name = str(file.parent.relative_to(folder)) if file.parent != folder else folder.name
        rows = tables.sweep_rows(table)
        parts = [f"<section><h2>Experiment: {escape(name)}</h2>", table_html(rows, "Cells, each judged on the held-out real patients", name)]  # fmt: skip
        parts.append('<p class="soft">mean [patient-level 95 % interval]</p>')
        parts += _comparisons(file.parent / "comparisons.csv", name)
        for picture, (alt, caption) in _SWEEP_PICTURES.items():
            if (file.parent / picture).is_file():
                parts.append(figure_html((file.parent / picture).read_bytes(), alt, caption))
        result.append("".join(parts) + "</section>")
    return result


def _comparisons(file: Path, sweep: str) -> list[str]:
    if not file.is_file():
        return []
    table = pd.read_csv(file, dtype=dict.fromkeys(tables.COMPARISON_NAMES, str), keep_default_na=False, na_values=[""])
    return [
        table_html(tables.comparison_rows(table), "Pairs of cells on the same images", sweep),
        '<p class="soft">cell minus the other [patient-level 95 % interval]; p by flipping patients’ signs, after Holm’s correction over the pairs, each column by itself</p>',
    ]  # fmt: skip


def _in_a_sweep(file: Path) -> bool:
    """Whether a file is some SWEEP/work/evaluate-…/result/metrics.json beside a SWEEP/results.csv."""
    stage = file.parent.parent
    return bool(_STAGE.fullmatch(stage.name)) and (stage.parent.parent / "results.csv").is_file()


def _evaluations(folder: Path) -> list[str]:
    result = []
    for file in sorted(folder.rglob("metrics.json")):
        if _in_a_sweep(file):
            continue  # a cell, which the sweep's table shows
        metrics = read_json(file)
        name = str(file.parent.relative_to(folder)) or file.parent.name
        parts = [f"<section><h2>Evaluation: {escape(name)}</h2>"]
        parts.append(
            '<p class="soft">mean ± standard deviation over bootstrap repeats [patient-level 95 % interval]</p>'
        )
        for section in tables.sections(metrics):
            parts.append(table_html(section.rows, section.title, name))
            parts += [f'<p class="soft">{escape(section.note)}</p>'] if section.note else []
        for picture, (alt, caption) in _PICTURES.items():
            if (file.parent / picture).is_file():
                parts.append(figure_html((file.parent / picture).read_bytes(), alt, caption))
        result.append("".join(parts) + _settings(metrics.get("settings", {})) + "</section>")
    return result


def _told_apart(names: Mapping[Path, str], folder: Path) -> dict[Path, str]:
    """Names by file; where two are the same, as in the stages of a sweep, with the place of the file."""
    several = {n for n, k in Counter(names.values()).items() if k > 1}
    return {f: f"{n} ({f.parent.relative_to(folder)})" if n in several else n for f, n in names.items()}


def _datasets(folder: Path) -> list[str]:
    result = []
    names = _told_apart({f: f.parent.name for f in sorted(folder.rglob("preview.png"))}, folder)
    for file, dataset in names.items():
        settings = read_json(file.parent / "settings.json") if (file.parent / "settings.json").is_file() else {}
        rows = [["Setting", "Value"]]
        rows += [
            [k, str(settings.get(k))]
            for k in ("model", "size", "nfe", "solver", "count", "seed", "precision", "trained_on")
            if k in settings
        ]
        caption = "The first images of the dataset, each above the map it was drawn from."
        result.append(
            f"<section><h2>Synthetic dataset: {escape(dataset)}</h2>"
            + figure_html(file.read_bytes(), "Grid of synthetic echocardiograms above their label maps", caption)
            + table_html(rows, "How it was drawn", dataset) + _settings(settings) + "</section>"
        )  # fmt: skip
    return result


def _qualities(folder: Path) -> list[str]:
    result = []
    every = {f: read_json(f) for f in sorted(folder.rglob("quality.json"))}
    names = _told_apart({f: found["dataset"] for f, found in every.items()}, folder)
    for file, found in every.items():
        rows = [["Measure", "Value"], *([name, value] for name, value in tables.quality_rows(found))]
        parts = [f"<section><h2>Quality: {escape(names[file])}</h2>", table_html(rows, "Against the real data", names[file])]  # fmt: skip
        for picture, alt in (
            ("quality.png", "Intensity histograms, agreement with the guiding maps, similarity to the nearest training image"),
            ("nearest.png", "The six synthetic images nearest to a training image, above that training image"),
        ):  # fmt: skip
            if (file.parent / picture).is_file():
                parts.append(figure_html((file.parent / picture).read_bytes(), alt, f"{alt}."))
        result.append("".join(parts) + _settings(found.get("settings", {})) + "</section>")
    return result


def _runs(folder: Path) -> list[str]:
    plots = []
    for file in sorted(folder.rglob("history.csv")):
        history = pd.read_csv(file)
        if history.empty:
            continue
        data = figures.png(figures.history_curves(history, file.parent.name))
        last = history["images"].max()
        plots.append(figure_html(data, f"Loss curves of {file.parent.name}", f"{file.parent.name}: {last} images seen"))
    return [f'<section><h2>Training</h2><div class="grid">{"".join(plots)}</div></section>'] if plots else []


def _settings(settings: Any) -> str:
    import json

    if not settings:
        return ""
    text = escape(json.dumps(settings, indent=1, ensure_ascii=False))
    return f"<details><summary>Settings</summary><pre>{text}</pre></details>"
