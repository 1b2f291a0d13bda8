"""From the spec to cells and their stages. A stage is known by a hash of everything that decides its outcome.

Outputs live in folders named by that hash: a change of the spec leads to other folders, what it
does not touch is found again, and two cells that need the same thing share it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from echo_synth.errors import SpecError
from echo_synth.experiment.spec import ExtraCell, SweepSpec

HASH_DIGITS = 12


@dataclass(frozen=True)
class Stage:
    """One command of a cell.

    Attributes:
        kind: data, segmenter, predict, classifier or evaluate.
        config: what decides the outcome besides earlier stages.
        needs: earlier stages by role.
    """

    kind: str
    config: Mapping[str, Any]
    needs: Mapping[str, Stage] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of kind, config and the keys of what it needs."""
        content = [self.kind, dict(self.config), {role: s.key for role, s in sorted(self.needs.items())}]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]

    @property
    def folder(self) -> str:
        """Name of its output folder."""
        return f"{self.kind}-{self.key}"


@dataclass(frozen=True)
class Cell:
    """One row of the experiment's table.

    Attributes:
        name: unique.
        facts: columns of results.csv: kind, model, nfe, seed, …
        stages: in order; each after what it needs.
    """

    name: str
    facts: Mapping[str, Any]
    stages: tuple[Stage, ...]

    def stage(self, kind: str) -> Stage | None:
        """The stage of that kind."""
        return next((s for s in self.stages if s.kind == kind), None)


def build_cells(
    spec: SweepSpec, fingerprints: Mapping[str, str], solvers: Mapping[tuple[str, int], str] | None = None
) -> list[Cell]:
    """All cells, the reference first.

    Args:
        fingerprints: what the outside holds: "real", "maps", "trainer", and a hash of its weights for each row of the grid.
        solvers: what "auto" means by row and NFE.

    Raises SpecError for an unknown base or reference, or a comparison of what is no cell or has no segmenter.
    """
    data: dict[str, tuple[Stage, dict[str, Any]]] = {}
    for row, grid in spec.models.items():
        for nfe in grid.nfe:
            for seed in spec.seeds:
                facts = {"kind": "synthetic", "row": row, "model": spec.model_of(row), "nfe": nfe, "seed": seed, "count": grid.count or spec.count}  # fmt: skip
                # The row's name decides nothing: rows that ask for the same images share them.
                config = {k: v for k, v in facts.items() if k != "row"} | {"solver": (solvers or {}).get((row, nfe), grid.solver), "batch": spec.batch, "weights": fingerprints[row], "maps": fingerprints["maps"]}  # fmt: skip
                data[f"{row}_nfe{nfe}_seed{seed}"] = (Stage("data", config), facts)
    for name, extra in spec.cells.items():
        data[name] = _extra(name, extra, spec, fingerprints, data)
    if spec.reference is not None and spec.reference not in data:
        raise SpecError(f"reference: {spec.reference}; expected one of the cells: {', '.join(data)}")
    _check_comparisons(spec, data)
    order = sorted(data, key=lambda n: n != spec.reference)
    cells: list[Cell] = []
    for name in order:
        stage, facts = data[name]
        cells.append(Cell(name, facts, _downstream(stage, spec, fingerprints, cells[0] if cells and spec.reference else None)))  # fmt: skip
    return cells


def _check_comparisons(spec: SweepSpec, cells: Mapping[str, Any]) -> None:
    for name, pair in spec.compare.items():
        if spec.segmenter is None:
            raise SpecError(f"compare.{name}: expected a segmenter, whose Dice is compared; found segmenter: null")
        unknown = next((c for c in pair if c not in cells), None)
        if unknown is not None:
            raise SpecError(f"compare.{name}: {unknown}; expected one of the cells: {', '.join(cells)}")
        if pair[0] == pair[1]:
            raise SpecError(f"compare.{name}: {pair[0]} twice; expected two cells")


def _extra(
    name: str, extra: ExtraCell, spec: SweepSpec, fingerprints: Mapping[str, str], data: Mapping[str, tuple[Stage, dict[str, Any]]]
) -> tuple[Stage, dict[str, Any]]:  # fmt: skip
    facts: dict[str, Any] = {"kind": extra.kind, "seed": spec.seeds[0]}
    if extra.kind in ("mix", "filtered"):
        if extra.base is None or extra.base not in data:
            raise SpecError(f"cells.{name}.base: {extra.base}; expected one of {', '.join(data) or 'the grid'}")
        base, base_facts = data[extra.base]
        if base_facts["kind"] not in ("synthetic", "noise"):
            raise SpecError(
                f"cells.{name}.base: {extra.base} is a {base_facts['kind']} cell; expected a synthetic one or noise"
            )
        facts |= {"base": extra.base} | {k: base_facts.get(k) for k in ("row", "model", "nfe")}
        if extra.kind == "mix":
            facts |= {"share": 0.5 if extra.share is None else extra.share, "patients": extra.patients}
            return Stage("data", facts | {"real": fingerprints["real"]}, {"base": base}), facts
        facts |= {"low_agreement": extra.low_agreement}
        known = data.get(spec.reference or "")
        reference = _downstream(known[0], spec, fingerprints, None) if known else ()
        judge = next((s for s in reference if s.kind == "segmenter"), None)
        whole = known is not None and known[1]["kind"] == "real" and known[1]["patients"] is None
        if judge is None or not whole:
            raise SpecError(
                f"cells.{name}: filtered needs a segmenter and, named before it, a reference of kind real with all patients"
            )
        return Stage("data", facts, {"base": base, "judge": judge}), facts
    if extra.kind == "real":
        facts |= {"patients": extra.patients}
        return Stage("data", facts | {"real": fingerprints["real"]}), facts
    facts |= {"count": extra.count or spec.count}
    return Stage("data", facts | {"maps": fingerprints["maps"]}), facts


def _downstream(data: Stage, spec: SweepSpec, fingerprints: Mapping[str, str], reference: Cell | None) -> tuple[Stage, ...]:  # fmt: skip
    stages, needs = [data], dict[str, Stage]()
    if spec.segmenter is not None:
        config = spec.segmenter.model_dump() | {"facts": fingerprints.get("trainer")}
        segmenter = Stage("segmenter", config, {"data": data})
        predict = Stage("predict", {"real": fingerprints["real"]}, {"segmenter": segmenter})
        stages += [segmenter, predict]
        needs["predict"] = predict
        baseline = reference.stage("predict") if reference else None
        if baseline is not None:
            needs["baseline"] = baseline
    # Mixtures and filtered datasets refer to files; they have no classification folder of their own.
    if (
        spec.classifier is not None
        and data.config["kind"] in ("real", "synthetic", "noise")
        and not data.config.get("patients")
    ):
        classifier = Stage("classifier", spec.classifier.model_dump(), {"data": data})
        stages.append(classifier)
        needs["classifier"] = classifier
    if needs:
        stages.append(Stage("evaluate", {"repeats": spec.repeats, "real": fingerprints["real"]}, needs))
    return tuple(stages)
