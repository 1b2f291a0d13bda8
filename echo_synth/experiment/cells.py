"""From the spec to cells and their stages.

Outputs live in folders named by a stage's hash: a change of the spec leads to other folders, what it
does not touch is found again, and two cells that need the same thing share it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from echo_synth.errors import SpecError
from echo_synth.experiment.spec import ExtraCell, ModelGrid, SweepSpec
from echo_synth.experiment.stages import DRAWN_KINDS, IMPORTED, OWN_KINDS, Cell, Setting, Stage, imported_name
from echo_synth.generation.physics import RENDERER

# Of evaluations with a baseline; raised when their numbers change, so that a sweep makes them again. 1 took the baseline's
# predictions for those of the cell.
_EVALUATION = 2
# Of judging how images look; raised when what is measured changes. 1 had no area under the curve of real against synthetic images.
_QUALITY = 2

Solvers = Mapping[tuple[str, int], str]


@dataclass(frozen=True)
class _CellData:
    """What a cell trains on.

    Attributes:
        stage: its first stage.
        columns: of results.csv.
        arm: its name without the seed of the images.
        epochs: of its segmenter; None for the sweep's.
        pretrained_on: what models are trained on before `stage`.
    """

    stage: Stage
    columns: Mapping[str, Setting]
    arm: str
    epochs: int | None = None
    pretrained_on: _CellData | None = None


def build_cells(
    spec: SweepSpec,
    fingerprints: Mapping[str, str],
    solvers: Solvers | None = None,
    levels: Solvers | None = None,
) -> list[Cell]:
    """All cells, the reference first.

    Args:
        fingerprints: hashes of the inputs: "real", "maps", "trainer", and the weights of each row of the grid.
        solvers: what "auto" means by row and NFE.
        levels: noise levels that "auto" brings, as text, where it does.

    Raises SpecError for an unknown base or reference, a comparison of what is no cell or has no segmenter, or a quality
    without all real patients to judge by.
    """
    builder = _Builder(spec, fingerprints, solvers or {}, levels or {})
    datasets = builder.grid()
    taken = {*datasets, *(data.arm for data in datasets.values())}
    for name, extra in spec.cells.items():
        if name in taken:
            raise SpecError(f"cells.{name}: models: has cells of that name; choose another")
        datasets[name] = builder.extra(name, extra, datasets)
    _check_reference(spec, datasets)
    cells: list[Cell] = []
    for name in sorted(datasets, key=lambda n: n != spec.reference):
        judged = builder.quality(datasets[name], datasets.get(spec.reference or ""))
        for seed in spec.segmenter_seeds():
            cells.append(builder.cell(name, datasets[name], seed, cells, judged))
    _check_comparisons(spec, cells)
    return cells


def repeats_of(name: str, cells: Sequence[Cell]) -> list[Cell]:
    """The cell of that name, or all that repeat it: of a name without seeds, those with each of them."""
    exact = [c for c in cells if c.name == name]
    return exact or [c for c in cells if name in (c.dataset, c.arm)]


def choose_cells(cells: Sequence[Cell], only: Sequence[str] | None) -> list[Cell]:
    """Those that `only` names, each as in `repeats_of`, in the order of `cells`; None: all. Raises SpecError for a name that is none."""
    if only is None:
        return list(cells)
    chosen = {name: {c.name for c in repeats_of(name, cells)} for name in only}
    unknown = sorted(name for name, found in chosen.items() if not found)
    if unknown:
        names = dict.fromkeys(c.arm or c.name for c in cells)
        repeat = next((f", or single repeats such as {c.name}" for c in cells if c.name not in names), "")
        raise SpecError(f"--only {unknown[0]}: expected some of {', '.join(names)}{repeat}")
    return [c for c in cells if c.name in set().union(*chosen.values())]


@dataclass(frozen=True)
class _Builder:
    """Makes stages from a spec and the fingerprints of its inputs."""

    spec: SweepSpec
    fingerprints: Mapping[str, str]
    solvers: Solvers
    levels: Solvers

    def grid(self) -> dict[str, _CellData]:
        """Rows x NFE x seeds."""
        return {
            f"{row}_nfe{nfe}_seed{seed}": self._synthetic(row, grid, nfe, seed)
            for row, grid in self.spec.models.items()
            for nfe in grid.nfe
            for seed in self.spec.seeds
        }

    def _synthetic(self, row: str, grid: ModelGrid, nfe: int, seed: int) -> _CellData:
        drawn: dict[str, Setting] = {
            "kind": "synthetic",
            "model": self.spec.model_of(row),
            "nfe": nfe,
            "seed": seed,
            "count": grid.count or self.spec.count,
        }
        # The row's name decides nothing: rows that ask for the same images share them.
        config = drawn | {
            "solver": self.solvers.get((row, nfe), grid.solver),
            **({"sigmas": self.levels[row, nfe]} if (row, nfe) in self.levels else {}),
            **_given("sigma_max", grid.sigma_max),
            "batch": self.spec.batch,
            **self._ways(),
            "weights": self.fingerprints[row],
            "maps": self.fingerprints["maps"],
        }
        return _CellData(Stage("data", config), {"kind": "synthetic", "row": row} | drawn, f"{row}_nfe{nfe}")

    def _ways(self) -> dict[str, Setting]:
        """How images are computed, as far as the spec departs from the defaults: other sweeps keep their hashes."""
        ways = {"precision": (self.spec.precision, "auto"), "compile": (self.spec.compile, False)}
        return {name: value for name, (value, default) in ways.items() if value != default}

    def extra(self, name: str, extra: ExtraCell, before: Mapping[str, _CellData]) -> _CellData:
        """A cell beside the grid; `before` holds those that it may build on."""
        if extra.epochs is not None and self.spec.segmenter is None:
            raise SpecError(f"cells.{name}.epochs: {extra.epochs}; expected a segmenter, found segmenter: null")
        data = self._extra_data(name, extra, before)
        return replace(data, epochs=extra.epochs, columns={**data.columns, **_given("epochs", extra.epochs)})

    def _extra_data(self, name: str, extra: ExtraCell, before: Mapping[str, _CellData]) -> _CellData:
        columns: dict[str, Setting] = {"kind": extra.kind, "seed": self.spec.seeds[0]}
        if extra.kind == "real":
            columns["patients"] = extra.patients
            return _CellData(self._real(extra.patients), columns, name)
        if extra.kind in DRAWN_KINDS:
            columns["count"] = extra.count or self.spec.count
            renderer: dict[str, Setting] = {"renderer": RENDERER} if extra.kind == "bmode" else {}
            config = columns | renderer | {"maps": self.fingerprints["maps"]}
            return _CellData(Stage("data", config), columns, name)
        if extra.kind == IMPORTED:
            own: dict[str, Setting] = {"kind": IMPORTED, "dataset": extra.dataset}
            content = self.fingerprints[imported_name(extra.dataset or 0)]
            return _CellData(Stage("data", own | {"content": content}), own, name)
        base = _base_of(name, extra, before)
        columns |= {"base": extra.base} | {k: base.columns.get(k) for k in ("row", "model", "nfe")}
        if extra.kind == "pretrain":
            columns["patients"] = extra.patients
            return _CellData(self._real(extra.patients), columns, name, pretrained_on=base)
        if extra.kind == "mix":
            columns |= {"share": 0.5 if extra.share is None else extra.share, "patients": extra.patients}
            config = columns | {"real": self.fingerprints["real"]}
            return _CellData(Stage("data", config, {"base": base.stage}), columns, name)
        columns["low_agreement"] = extra.low_agreement
        judge = self._judge(name, before.get(self.spec.reference or ""))
        return _CellData(Stage("data", columns, {"base": base.stage, "judge": judge}), columns, name)

    def _real(self, patients: int | None) -> Stage:
        """Real patients, the stage that all cells share which train on the same ones."""
        config: dict[str, Setting] = {"kind": "real", "seed": self.spec.seeds[0], "patients": patients}
        return Stage("data", config | {"real": self.fingerprints["real"]})

    def _judge(self, name: str, reference: _CellData | None) -> Stage:
        """The segmenter of all real patients, which decides what images of a filtered cell stay."""
        whole = reference is not None and _has_all_real(reference)
        segmenter = self._segmenter(reference, self.spec.segmenter_seeds()[0]) if reference and whole else None
        if segmenter is None:
            raise SpecError(
                f"cells.{name}: filtered needs a segmenter and, named before it, a reference of kind real with all patients"
            )
        return segmenter

    def quality(self, data: _CellData, reference: _CellData | None) -> Stage | None:
        """What judges how the images of a dataset look, whatever is trained on them; None where they are not its own.

        Real images are known as the models of the reference know them: with a segmenter, also what it reads in the images
        is judged; with a classifier, also what that sees in them.
        """
        settings = self.spec.quality
        if settings is None or data.stage.config["kind"] not in OWN_KINDS:
            return None
        if reference is None or not _has_all_real(reference):
            raise SpecError(
                f"quality: expected reference: to name a cell of kind real with all patients, found {self.spec.reference}"
            )
        known = {
            "judge": self._segmenter(reference, self.spec.segmenter_seeds()[0]),
            "classifier": self._classifier(reference),
        }
        config = settings.model_dump() | {"real": self.fingerprints["real"], "method": _QUALITY}
        return Stage("quality", config, {"data": data.stage} | {role: s for role, s in known.items() if s})

    def cell(
        self, dataset: str, data: _CellData, seed: int | None, before: Sequence[Cell], judged: Stage | None = None
    ) -> Cell:
        """What is trained on a dataset with one seed.

        Args:
            before: holds the reference, of the same seed, if it comes first.
            judged: the dataset's `quality`.
        """
        stages, needs = [data.stage], dict[str, Stage]()
        columns = {**data.columns, **self._repeat(seed)}
        segmenter = self._segmenter(data, seed)
        if segmenter is not None:
            needs["predict"] = Stage("predict", {"real": self.fingerprints["real"]}, {"segmenter": segmenter})
            stages += [segmenter, needs["predict"]]
            baseline = self._baseline(columns, before)
            if baseline is not None:
                needs["baseline"] = baseline
        classifier = self._classifier(data)
        if classifier is not None:
            needs["classifier"] = classifier
            stages.append(classifier)
        if needs:
            config: dict[str, Setting] = {"repeats": self.spec.repeats, "real": self.fingerprints["real"]}
            config |= {"method": _EVALUATION} if "baseline" in needs else {}
            stages.append(Stage("evaluate", config, needs))
        if judged is not None:  # last: what cannot be judged is evaluated nevertheless
            stages.append(judged)
        name = f"{dataset}_train{seed}" if self._repeat(seed) else dataset
        return Cell(name, columns, tuple(stages), dataset, data.arm)

    def _repeat(self, seed: int | None) -> Mapping[str, Setting]:
        """The column that tells repeated trainings apart."""
        repeated = self.spec.segmenter is not None and self.spec.segmenter.seeds
        return {"segmenter_seed": seed} if repeated else {}

    def _baseline(self, columns: Mapping[str, Setting], before: Sequence[Cell]) -> Stage | None:
        """Predictions of the reference by the training of the same seed."""
        seed = columns.get("segmenter_seed")
        same = (c for c in before if c.dataset == self.spec.reference and c.columns.get("segmenter_seed") == seed)
        reference = next(same, None)
        return reference.stage("predict") if reference else None

    def _segmenter(self, data: _CellData, seed: int | None) -> Stage | None:
        if self.spec.segmenter is None:
            return None
        config: dict[str, Setting] = self.spec.segmenter.model_dump(exclude={"seeds"}) | {"seed": seed}
        config |= _given("epochs", data.epochs)
        config["facts"] = self.fingerprints.get("trainer")  # the trainer's own defaults
        init = self._segmenter(data.pretrained_on, seed) if data.pretrained_on else None
        return Stage("segmenter", config, {"data": data.stage} | ({"init": init} if init else {}))

    def _classifier(self, data: _CellData) -> Stage | None:
        # Mixtures and filtered datasets refer to files; they have no classification folder of their own.
        config = data.stage.config
        own_images = config["kind"] in ("real", *OWN_KINDS) and not config.get("patients")
        if self.spec.classifier is None or not own_images:
            return None
        init = self._classifier(data.pretrained_on) if data.pretrained_on else None
        needs = {"data": data.stage} | ({"init": init} if init else {})
        return Stage("classifier", self.spec.classifier.model_dump(), needs)


def _given(name: str, value: Setting) -> dict[str, Setting]:
    return {} if value is None else {name: value}


def _has_all_real(data: _CellData) -> bool:
    return data.columns.get("kind") == "real" and data.columns.get("patients") is None


def _base_of(name: str, extra: ExtraCell, before: Mapping[str, _CellData]) -> _CellData:
    if extra.base is None or extra.base not in before:
        raise SpecError(f"cells.{name}.base: {extra.base}; expected one of {', '.join(before) or 'the grid'}")
    base = before[extra.base]
    kind = base.columns["kind"]
    if kind not in DRAWN_KINDS:
        raise SpecError(f"cells.{name}.base: {extra.base} is a {kind} cell; expected a synthetic one, bmode or noise")
    return base


def _check_reference(spec: SweepSpec, cells: Collection[str]) -> None:
    if spec.reference is not None and spec.reference not in cells:
        raise SpecError(f"reference: {spec.reference}; expected one of the cells: {', '.join(cells)}")


def _check_comparisons(spec: SweepSpec, cells: Sequence[Cell]) -> None:
    names = sorted({n for c in cells for n in (c.name, c.dataset, c.arm)})
    for name, pair in spec.compare.items():
        if spec.segmenter is None:
            raise SpecError(f"compare.{name}: expected a segmenter, whose Dice is compared; found segmenter: null")
        unknown = next((c for c in pair if c not in names), None)
        if unknown is not None:
            raise SpecError(f"compare.{name}: {unknown}; expected one of the cells: {', '.join(names)}")
        if pair[0] == pair[1]:
            raise SpecError(f"compare.{name}: {pair[0]} twice; expected two cells")
        both = {c.name for c in repeats_of(pair[0], cells)} & {c.name for c in repeats_of(pair[1], cells)}
        if both:
            raise SpecError(f"compare.{name}: {min(both)} is on both sides; expected two cells that do not overlap")
