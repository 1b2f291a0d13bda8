"""Whether a sweep's inputs are still what its finished stages were made from, and stay so until a stage begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from echo_synth import specs
from echo_synth.errors import DataError
from echo_synth.experiment.inputs import SweepInputs, texture_of, weights_hash
from echo_synth.experiment.stages import Stage
from echo_synth.files import read_json
from echo_synth.generation.solver_choice import choose_solver
from echo_synth.runs.find import find_diffusion
from echo_synth.runs.folder import DiffusionRun, file_hash

_KNOWN = "known_contents"  # in settings.json: contents by fingerprint, of all calls


def check_contents(out: Path, inputs: SweepInputs) -> None:
    """Raise DataError where real data or maps have other pixels, or a Γ-VAE another texture, than when stages in `out` were made.

    Stages are named by the hash of cases.csv, index.parquet and weights, which changed masks and textures need not change; what
    is done would be taken for theirs.
    """
    known = _known(out)
    for name, now in inputs.contents.items():
        then = known.get(inputs.fingerprints[name])
        if then and now and then != now:
            raise DataError(
                f"{_changed(name, inputs)} than when the sweep in {out} was begun (content {then:.20}, now {now}); "
                "what is done there is of the former ones; choose another --out"
            )


def contents_known(out: Path, inputs: SweepInputs) -> dict[str, str]:
    """Contents by fingerprint that the sweep in `out` has met, those of `inputs` included: for its settings.json."""
    met = {inputs.fingerprints[name]: content for name, content in inputs.contents.items() if content}
    return _known(out) | met


def _known(out: Path) -> dict[str, str]:
    file = out / "settings.json"
    before = read_json(file) if file.is_file() else None
    if not isinstance(before, dict):
        return {}
    contents, named, known = (_texts(before.get(key)) for key in ("contents", "fingerprints", _KNOWN))
    # An earlier version wrote those of its last call alone.
    return {named[name]: content for name, content in contents.items() if name in named} | known


def _texts(part: object) -> dict[str, str]:
    pairs = part.items() if isinstance(part, dict) else ()
    return {name: value for name, value in pairs if isinstance(value, str)}


def _changed(name: str, inputs: SweepInputs) -> str:
    if name in ("real", "maps"):
        return f"{inputs.real.path if name == 'real' else inputs.maps}: has other images or masks"
    return f"models.{name}: {inputs.checkpoints[inputs.fingerprints[name]]} draws with another texture of its Γ-VAE"


def check_unchanged(stage: Stage, inputs: SweepInputs) -> None:
    """Raise DataError where an input of a stage is not what its hash says any more: it changed after the sweep was planned.

    A sweep takes days; its stages would be done with what is there then, under the name of what was there before.
    """
    config = stage.config
    if "real" in config:
        _check(inputs.real.path / "cases.csv", str(config["real"]))
    if "maps" in config:
        _check(inputs.maps / "index.parquet", str(config["maps"]))
    if "weights" in config:
        _check_weights(config, inputs)


def _check(file: Path, expected: str) -> None:
    if not file.is_file() or file_hash(file) != expected:
        raise _changed_since(file)


def _check_weights(config: Mapping[str, object], inputs: SweepInputs) -> None:
    """The run, its Γ-VAE with its texture, and the noise levels that it brings."""
    weights, model = str(config["weights"]), str(config["model"])
    run = find_diffusion(model, inputs.checkpoints[weights])
    textures = {inputs.contents.get(row) for row, known in inputs.fingerprints.items() if known == weights}
    if weights_hash(run, model) != weights or texture_of(run, model) not in textures:
        raise _changed_since(run.folder)
    if config["solver"] == "auto" and _levels(run, model, config) != config.get("sigmas"):
        raise _changed_since(run.folder / "solvers.json")


def _levels(run: DiffusionRun, model: str, config: Mapping[str, object]) -> str | None:
    start = config.get("sigma_max")
    known = specs.diffusion_model(model).solvers
    return choose_solver(run, "auto", int(str(config["nfe"])), known, float(str(start)) if start else None).shown()


def _changed_since(path: Path) -> DataError:
    return DataError(
        f"{path}: has changed since the sweep was planned; run the sweep again, which takes what is there now"
    )
