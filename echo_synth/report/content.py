"""What a folder holds that a page can show: sweeps, evaluations, judged datasets, datasets, training runs.

A file that cannot be shown (damaged, or of another program) keeps nothing else from the page: it is
named at its end with what is wrong with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd

from echo_synth.data.subject import SUBJECT, subject_of
from echo_synth.data.tissue_colours import Key, legend, tissue_colour
from echo_synth.data.tissues import OTHER_TISSUE
from echo_synth.errors import DataError
from echo_synth.files import PARTIAL
from echo_synth.report import figures, reading, tables
from echo_synth.report.blocks import Block, Facts, Gallery, Legend, Note, PageSection, Panels, Picture, Settings, Table
from echo_synth.report.captions import EVALUATION_PICTURES, NEAREST, QUALITY_PICTURES, SWEEP_PICTURES, WIDE, Caption
from echo_synth.report.headline import Headline, of_evaluation, of_quality, of_sweep
from echo_synth.report.looks_tables import CORRELATION_NOTE, correlation_rows, few_note, looks_rows
from echo_synth.report.panels import cut, cut_preview
from echo_synth.report.quality_tables import quality_rows, recall_rows
from echo_synth.runs.folder import FORMER

T = TypeVar("T")
LEFT_OUT = "Left out"
_MOST_HEADLINES = 12
_STAGE = re.compile(r"(evaluate|quality)-[0-9a-f]{12}")
_DATASET_SETTINGS = ("model", "size", "nfe", "solver", "count", "seed", "precision", "trained_on")


def sections_of(folder: Path) -> list[PageSection]:
    """Everything found below `folder`, in the order in which it is read."""
    page = _Page(folder)
    parts = (page.sweeps, page.evaluations, page.qualities, page.datasets, page.runs, page.left_out)
    found = [section for part in parts for section in part()]
    return [*page.summary(), *found]


@dataclass
class _Page:
    """Makes the sections of a folder, and keeps account of the files that were left out."""

    folder: Path
    refused: list[str] = field(default_factory=list)
    headlines: list[Headline] = field(default_factory=list)

    def _files(self, name: str) -> list[Path]:
        """Files of that name at any depth, but for what a command is still writing or replacing."""
        found = sorted(self.folder.rglob(name))
        inside = {f: f.relative_to(self.folder).parts for f in found}
        return [f for f in found if FORMER not in inside[f] and not any(p.startswith(PARTIAL) for p in inside[f])]

    def _read(self, reader: Callable[[Path], T], file: Path) -> T | None:
        """What `reader` makes of a file, or None, noted, where it is not what its name says."""
        try:
            return reader(file)
        except DataError as e:
            self.refused.append(str(e))
            return None

    def _name(self, file: Path) -> str:
        """Where a file lies: its folder, from the page's own."""
        return str(file.parent.relative_to(self.folder)) if file.parent != self.folder else self.folder.name

    def _pictures(self, folder: Path, captions: Mapping[str, Caption]) -> Iterator[Picture]:
        for name, (alt, caption) in captions.items():
            if (folder / name).is_file() and (png := self._read(reading.read_png, folder / name)):
                yield Picture(png, alt, caption, wide=name in WIDE)

    def _panels(self, file: Path, caption: Caption, cut: Callable[[bytes], list[bytes]], size: str) -> Iterator[Block]:
        """A picture cut into its panels; whole where it cannot be."""
        png = self._read(reading.read_png, file) if file.is_file() else None
        if not png:
            return
        alt, words = caption
        pictures = [Picture(tile, f"{alt}: panel {i}", "") for i, tile in enumerate(cut(png), 1)]
        yield Panels(pictures, words, size) if pictures else Picture(png, alt, words)

    def summary(self) -> Iterator[PageSection]:
        """What matters of all sections, once they are made."""
        if self.headlines:
            shown = [Facts(h.title, h.lines) for h in self.headlines[:_MOST_HEADLINES]]
            more = len(self.headlines) - len(shown)
            yield PageSection("Summary", [*shown, *([Note(f"and {more} more, below")] if more else [])])

    def _note(self, headline: Headline | None) -> None:
        if headline is not None:
            self.headlines.append(headline)

    def sweeps(self) -> Iterator[PageSection]:
        for file in self._files("results.csv"):
            table = self._read(reading.read_sweep_results, file)
            if table is None:
                continue
            name = self._name(file)
            self._note(of_sweep(f"Experiment {name}", table))
            cells = Table(tables.sweep_rows(table), "Cells, each judged on the held-out real patients", name)
            blocks: list[Block] = [cells, Note(tables.sweep_note(table))]
            blocks += self._comparisons(file.parent / "comparisons.csv", name)
            blocks += self._looks(table, file.parent / "correlations.csv", name)
            blocks += self._pictures(file.parent, SWEEP_PICTURES)
            if (file.parent / "images.png").is_file():
                drawn = next(iter(sorted(file.parent.rglob(SUBJECT))), file)  # of a heart there is none
                blocks += self._legend(drawn.parent)
            yield PageSection(f"Experiment: {name}", blocks)

    def _comparisons(self, file: Path, sweep: str) -> Iterator[Block]:
        table = self._read(reading.read_comparisons, file) if file.is_file() else None
        if table is None:
            return
        yield Table(tables.comparison_rows(table), "Pairs of cells on the same images", sweep)
        yield Note(tables.comparison_note(table))

    def _looks(self, results: pd.DataFrame, file: Path, sweep: str) -> Iterator[Block]:
        if not len(rows := looks_rows(results)) > 1:
            return
        yield Table(rows, "How real the images look", sweep)
        table = self._read(reading.read_correlations, file) if file.is_file() else None
        if table is not None:
            yield Table(correlation_rows(table), "Does what looks more real teach better?", sweep)
            yield Note(CORRELATION_NOTE)
        if few := few_note(results, table):
            yield Note(few)

    def evaluations(self) -> Iterator[PageSection]:
        for file in self._files("metrics.json"):
            if _in_a_sweep(file):
                continue  # a cell, which the sweep's table shows
            metrics = self._read(reading.read_metrics, file)
            if metrics is None:
                continue
            name = self._name(file)
            self._note(of_evaluation(f"Evaluation {name}", metrics))
            blocks: list[Block] = [Note(tables.HOW_TO_READ)]
            for section in tables.sections(metrics):
                blocks.append(Table(section.rows, section.title, name))
                blocks += [Note(section.note)] if section.note else []
            # A picture of a part that these numbers do not have is of an earlier evaluation.
            current = {
                n: c for part, known in EVALUATION_PICTURES.items() if metrics.get(part) for n, c in known.items()
            }
            worst = current.pop("worst.png", None)
            blocks += self._pictures(file.parent, current)
            blocks += self._panels(file.parent / "worst.png", worst, cut, "large") if worst else []
            yield PageSection(f"Evaluation: {name}", [*blocks, Settings(metrics.get("settings") or {})])

    def qualities(self) -> Iterator[PageSection]:
        files = [f for f in self._files("quality.json") if not _in_a_sweep(f)]  # of a cell: in the sweep's table
        results = {f: q for f in files if (q := self._read(reading.read_quality, f)) is not None}
        names = _told_apart({file: str(result["dataset"]) for file, result in results.items()}, self.folder)
        for file, result in results.items():
            self._note(of_quality(f"Quality of {names[file]}", result))
            rows = [["Measure", "Value"], *([measure, value] for measure, value in quality_rows(result))]
            blocks: list[Block] = [Table(rows, "Against the real data", names[file])]
            if len(recall := recall_rows(result["privacy"])) > 1:
                blocks += [Table(recall, "Planted copies that are found", names[file]), Note(_RECALL_NOTE)]
            blocks += self._pictures(file.parent, QUALITY_PICTURES)
            blocks += self._panels(file.parent / "nearest.png", NEAREST, cut, "large")
            yield PageSection(f"Quality: {names[file]}", [*blocks, Settings(result.get("settings") or {})])

    def datasets(self) -> Iterator[PageSection]:
        names = _told_apart({f: f.parent.name for f in self._files("preview.png")}, self.folder)
        for file, dataset in names.items():
            settings = self._read(reading.read_settings, file.parent / "settings.json") or {}
            rows = [["Setting", "Value"], *([k, str(settings[k])] for k in _DATASET_SETTINGS if k in settings)]
            blocks: list[Block] = [
                *self._panels(file, _PREVIEW, cut_preview, "small"),
                *self._legend(file.parent),
                Table(rows, "How it was drawn", dataset),
                Settings(settings),
            ]
            yield PageSection(f"Synthetic dataset: {dataset}", blocks)

    def _legend(self, dataset: Path) -> Iterator[Legend]:
        subject = self._read(subject_of, dataset)
        if subject is not None:
            yield Legend([*legend(subject), Key("other tissue in the sector", tissue_colour(OTHER_TISSUE))])

    def runs(self) -> Iterator[PageSection]:
        curves = [c for file in self._files("history.csv") if (c := self._loss_curves(file)) is not None]
        if curves:
            yield PageSection("Training", [Gallery(curves)])

    def _loss_curves(self, file: Path) -> Picture | None:
        history = self._read(reading.read_history, file) if _has_rows(file) else None
        if history is None:
            return None
        run = file.parent.name
        png = figures.png(figures.history_curves(history, run))
        return Picture(png, f"Loss curves of {run}", f"{run}: {history['images'].max():.0f} images seen")

    def left_out(self) -> Iterator[PageSection]:
        """Last of all, when everything was read."""
        if self.refused:
            yield PageSection(LEFT_OUT, [Note(reason) for reason in self.refused])


_PREVIEW = (
    "Drawn image above its label map",
    "Drawn, not real: the first images of the dataset, each above the label map that it was drawn from.",
)
_RECALL_NOTE = (
    "Training images, changed and offered as if they were drawn: how many the thresholds above find "
    "[95 % interval over patients]."
)


def _in_a_sweep(file: Path) -> bool:
    """Whether a file is some SWEEP/work/evaluate-…/result/metrics.json, or quality-…'s, beside a SWEEP/results.csv."""
    stage = file.parent.parent
    return bool(_STAGE.fullmatch(stage.name)) and (stage.parent.parent / "results.csv").is_file()


def _told_apart(names: Mapping[Path, str], folder: Path) -> dict[Path, str]:
    """Names by file; where two are the same, as in the stages of a sweep, with the place of the file."""
    repeated = {name for name, count in Counter(names.values()).items() if count > 1}
    return {f: f"{name} ({f.parent.relative_to(folder)})" if name in repeated else name for f, name in names.items()}


def _has_rows(file: Path) -> bool:
    """Whether more than a header was logged; a training has just begun where not."""
    try:
        with open(file, "rb") as lines:
            return bool(lines.readline(10_000).strip()) and bool(lines.readline(10_000).strip())
    except OSError:
        return True  # its reader says what is wrong
