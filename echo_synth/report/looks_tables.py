"""How real the images of a sweep look, and whether that says what they teach, as tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from echo_synth.evaluation.looks import LOOKS, OUTCOMES, look_values
from echo_synth.evaluation.rank_correlation import FEWEST
from echo_synth.report.cells import Rows

CORRELATION_NOTE = (
    "Rank correlation (Spearman) over the datasets, turned so that + says: what looks more real teaches better [95 % "
    "interval, patients and datasets resampled; it does not know how other images of the same generators would look]. Few "
    "datasets give wide intervals. Datasets by models of one family differ in more than their looks: a correlation over them "
    "is no cause."
)


def judged_datasets(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of results.csv whose images were judged, one a dataset, with a column dataset; numbers are means over its trainings.

    Trainings of one dataset share images_of, as do rows of the grid that draw the same images; in tables without that column they
    differ in their column segmenter_seed and in the end of their name, _train<seed>.
    """
    columns = [c for c in dict.fromkeys(look.column for look in LOOKS.values()) if c in results]
    scores = [c for c in (*columns, *OUTCOMES) if c in results]
    kept = [c for c in ("kind", "row", "model", "nfe", "count") if c in results]
    named = ["cell", *(c for c in ("segmenter_seed", "images_of") if c in results)]
    judged = results.loc[results[columns].notna().any(axis=1), [*named, *scores, *kept]]
    if judged.empty:
        return judged.assign(dataset=pd.Series(dtype=object))
    names = [_dataset(row) for row in judged.to_dict("records")]
    grouped = judged.assign(dataset=pd.Series(names, judged.index, dtype=object)).groupby("dataset", sort=False)
    return grouped.agg(dict.fromkeys(scores, "mean") | dict.fromkeys(kept, "first")).reset_index()


def _dataset(row: Mapping[Any, Any]) -> str:
    if isinstance(row.get("images_of"), str):
        return str(row["images_of"])
    seed = row.get("segmenter_seed")
    return str(row["cell"]) if seed is None or pd.isna(seed) else str(row["cell"]).removesuffix(f"_train{seed:.0f}")


def looks_rows(results: pd.DataFrame) -> Rows:
    """Every measure of looks that is known, a row a dataset; the header alone where none was judged."""
    table = judged_datasets(results)
    known = [look for look in LOOKS.values() if look.column in table and table[look.column].notna().any()]
    rows = [["Dataset", *(f"{look.label} ({more_real(look.real_is, look.ratio)})" for look in known)]]
    for row in table.to_dict("records"):
        cells = [f"{row[k.column]:.3g}" if pd.notna(row[k.column]) else "–" for k in known]
        rows.append([str(row["dataset"]), *cells])
    return rows


def more_real(real_is: str, ratio: bool) -> str:
    """'real: low'; of a ratio 'real: 1'."""
    return "real: 1" if ratio else f"real: {real_is}"


def turned(correlations: pd.DataFrame) -> pd.DataFrame:
    """`correlations` with rho, low and high turned so that + says: what looks more real teaches better."""
    same = correlations["real_is"] == correlations["better_is"]
    ends = {"rho": -correlations["rho"], "low": -correlations["high"], "high": -correlations["low"]}
    return correlations.assign(**{name: correlations[name].where(same, values) for name, values in ends.items()})


def correlation_rows(correlations: pd.DataFrame) -> Rows:
    """A row a measure of looks, a column an outcome: the `turned` correlation with its interval and number of datasets."""
    table = turned(correlations)
    outcomes = [name for name in OUTCOMES if (table["outcome"] == name).any()]
    rows = [["Measure of looks", *(OUTCOMES[name].label for name in outcomes)]]
    for measure, entries in table.groupby("measure", sort=False):
        by_outcome = {entry["outcome"]: entry for entry in entries.to_dict("records")}
        rows.append([LOOKS[str(measure)].label, *(_correlation(by_outcome.get(name)) for name in outcomes)])
    return rows


def _correlation(entry: Mapping[Any, Any] | None) -> str:
    if entry is None:
        return "–"
    datasets = f"{entry['cells']:.0f} datasets"
    if pd.isna(entry["rho"]):
        return f"none: all ranks are the same; {datasets}"
    if pd.isna(entry["low"]) or pd.isna(entry["high"]):
        return f"{entry['rho']:+.2f}; {datasets}"
    return f"{entry['rho']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}]; {datasets}"


def few_note(results: pd.DataFrame, correlations: pd.DataFrame | None) -> str:
    """Which pairs have no correlation for want of datasets, in a sentence; empty where all that were measured have one."""
    table = judged_datasets(results)
    looks = look_values(table)
    given = set() if correlations is None else set(zip(correlations["measure"], correlations["outcome"], strict=True))
    lacking: dict[int, list[str]] = {}
    for measure in looks:
        for outcome in (name for name in OUTCOMES if name in table):
            both = int((looks[measure].notna() & table[outcome].notna()).sum())
            if both < FEWEST and (measure, outcome) not in given and looks[measure].notna().any():
                lacking.setdefault(both, []).append(f"{LOOKS[str(measure)].label} with {OUTCOMES[outcome].label}")
    if not len(table) or not lacking:
        return ""
    if not given:
        return f"No correlation of looks and outcomes is given: it needs {FEWEST} datasets that have both, found {max(lacking)}."
    pairs = "; ".join(f"{', '.join(names)} ({both} datasets)" for both, names in sorted(lacking.items()))
    return f"No correlation is given where fewer than {FEWEST} datasets have both: {pairs}."
