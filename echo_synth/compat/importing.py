"""From a file of the paper's authors to a run folder of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from echo_synth import checksums
from echo_synth.compat import edmlx, infer
from echo_synth.compat.inert import Record
from echo_synth.compat.weights_file import read_pickle
from echo_synth.errors import RunError
from echo_synth.files import read_json, write_json
from echo_synth.folders import check_target, mark, new_folder
from echo_synth.runs.description import DiffusionDescription, VaeDescription, VaeNetwork, first_error
from echo_synth.runs.folder import DESCRIPTION, WEIGHTS, VaeRun
from echo_synth.runs.tensors import save_tensors

_MODEL_OF = {"VEPrecond": "ve", "VPPrecond": "vp", "iDDPMPrecond": "sdm"}
_PRECOND_NAME: dict[str, Literal["edm", "ve", "vp", "iddpm"]] = {
    "EDMPrecond": "edm",
    "VEPrecond": "ve",
    "VPPrecond": "vp",
    "iDDPMPrecond": "iddpm",
}
PRECONDS = tuple(_PRECOND_NAME)
_VAE_RESOLUTION = 256  # of the images of the paper, px
MADE_BY = "import-edmlx"
ImportedDescription = VaeDescription | DiffusionDescription


# Names of a network's tensors: the paper's have 2000 of at most 60 characters, 6 modules deep.
_MOST_TENSORS, _LONGEST_NAME, _DEEPEST = 20_000, 300, 32


def state_of(record: Record) -> dict[str, Tensor]:
    """The state dict of a module that was read as a Record: parameters and buffers of it and its children.

    Raises RunError where there are more of them, or they lie deeper, than in any network of the paper.
    """
    tensors: dict[str, Tensor] = {}
    waiting = [("", 0, record)]
    while waiting:
        prefix, depth, module = waiting.pop()
        for kind in ("_parameters", "_buffers"):
            named = {f"{prefix}{k}": v for k, v in _mapping(module, kind).items() if isinstance(v, Tensor)}
            tensors |= named
        children = [(name, c) for name, c in _mapping(module, "_modules").items() if isinstance(c, Record)]
        if len(tensors) + len(waiting) + len(children) > _MOST_TENSORS or (children and depth == _DEEPEST):
            raise RunError("more modules in it than any network of the paper has")
        waiting += [(f"{prefix}{name}."[: _LONGEST_NAME + 1], depth + 1, child) for name, child in children]
    return tensors


def _check_tensors(path: Path, content: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise RunError for what no network has: no tensors or very many, long names, empty or not finite values."""
    if not tensors:
        raise RunError(f"{path}: no network in it (found {type(content).__name__})")
    if len(tensors) > _MOST_TENSORS or max(map(len, tensors)) > _LONGEST_NAME:
        raise RunError(f"{path}: its {len(tensors)} parameters are not those of a network of the paper")
    for name, value in tensors.items():
        if value.numel() == 0:
            raise RunError(f"{path}: its parameter {name!r:.80} is empty")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RunError(f"{path}: its parameter {name!r:.80} holds values that are not finite (NaN or infinity)")


def _mapping(record: Record, name: str) -> Mapping[Any, Any]:
    held = record.state.get(name)
    return held if isinstance(held, Mapping) else {}


def _denoiser_record(content: Any) -> Record | None:
    """The preconditioned network in a file: the averaged one where several are kept."""
    if isinstance(content, Record):
        return content if content.class_name.endswith("Precond") else None
    if isinstance(content, Mapping):
        for key in ("ema", *content):
            inner = content.get(key)
            record = _denoiser_record(inner) if isinstance(inner, (Record, Mapping)) else None
            if record:
                return record
    return None


def _flat_state(content: Any) -> dict[str, Tensor]:
    """The state dict in a file, possibly wrapped in {"state_dict": …}."""
    for key in ("ema", "model", "state_dict", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    return {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object of constructor settings. Raises DataError where it is not readable, RunError for anything else."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise RunError(f"{path}: holds a {type(settings).__name__}, expected an object of settings")
    return settings


def read_edmlx(
    path: Path, settings: Mapping[str, Any] | None = None, precond: str | None = None
) -> tuple[ImportedDescription, dict[str, Tensor]]:
    """Description and weights, by our names, of a file of the reference code.

    Args:
        path: the VAE's .pth, or a diffusion network's pickle.
        settings: what overrides the settings that are read off the parameters.
        precond: class name of the preconditioning, for network files that are bare state dicts.

    Raises:
        RunError: the file is refused or damaged, or holds no network of the paper.
    """
    content = read_pickle(path)
    try:
        record = _denoiser_record(content)
        tensors = state_of(record) if record else _flat_state(content)
        _check_tensors(path, content, tensors)
        return _described(path, record, tensors, settings or {}, precond)
    except ValidationError as e:
        raise RunError(f"{path}: {first_error(e)}; its settings are not those of a network of the paper") from None
    except RunError as e:
        raise e if str(path) in str(e) else RunError(f"{path}: {e}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as e:
        raise RunError(
            f"{path}: its parameters are not those of a network of the paper ({type(e).__name__}: {e!s:.100})"
        ) from e


def _described(
    path: Path, record: Record | None, tensors: dict[str, Tensor], settings: Mapping[str, Any], precond: str | None
) -> tuple[ImportedDescription, dict[str, Tensor]]:
    if infer.is_vae(tensors):
        return _vae(path, tensors, settings)
    name = record.class_name if record else precond
    if name is None:
        raise RunError(f"{path}: a bare state dict of a diffusion network; pass --precond (e.g. EDMPrecond)")
    scalars = {k: v for k, v in (record.state if record else {}).items() if isinstance(v, (int, float))}
    return _network(path, tensors, {**scalars, **infer.network_settings(tensors, name), **settings})


def _vae(
    path: Path, tensors: dict[str, Tensor], override: Mapping[str, Any]
) -> tuple[VaeDescription, dict[str, Tensor]]:
    settings = {**infer.vae_settings(tensors), **override}
    network = VaeNetwork(**edmlx.describe_vae(settings))
    latent = _VAE_RESOLUTION >> (len(network.channels) - 1)
    description = VaeDescription(
        kind="vae",
        model=f"gamma-vae-{latent}",
        size="paper",
        resolution=_VAE_RESOLUTION,
        latent_resolution=latent,
        network=network,
        imported_from=path.name,
    )
    # Its bounds hold, so building takes no more than the paper's networks do; raises when they do not fit.
    edmlx.load_vae(settings, _arrays(tensors))
    return description, edmlx.rename_vae(tensors)


def _network(
    path: Path, tensors: dict[str, Tensor], settings: Mapping[str, Any]
) -> tuple[DiffusionDescription, dict[str, Tensor]]:
    if settings["precond"] not in _PRECOND_NAME:
        raise RunError(f"precond {settings['precond']!s:.40}: expected one of {', '.join(_PRECOND_NAME)}")
    parts = edmlx.describe_network(settings, tensors)
    resolution = parts["network"]["resolution"]
    latent = "edm" if resolution >= 256 else f"edm-l{resolution}"
    description = DiffusionDescription(
        kind="diffusion",
        model=_MODEL_OF.get(settings["precond"], latent),
        size="paper",
        resolution=resolution,
        precond=_PRECOND_NAME[settings["precond"]],
        precond_arguments=edmlx.precond_arguments(settings),
        vae=None,
        imported_from=path.name,
        **parts,
    )
    # As in `_vae`: bounds first.
    denoiser = edmlx.load_denoiser(settings, _arrays(tensors))
    return description, {f"network.{k}": v for k, v in denoiser.network.state_dict().items()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {k: v.detach().float().numpy() for k, v in tensors.items()}


def import_edmlx(
    path: Path,
    out: Path,
    settings: Mapping[str, Any] | None,
    precond: str | None,
    vae: VaeRun | None,
    overwrite: bool = False,
    resolved: Mapping[str, Any] | None = None,
) -> ImportedDescription:
    """Write `path` as a run folder, complete or not at all.

    Args:
        path, settings, precond: see `read_edmlx`.
        out: run folder; with `overwrite` it replaces one that this function made.
        vae: the Γ-VAE that a latent model belongs to.
        resolved: settings.json of the run, None for none.

    Returns:
        the run's description.

    Raises:
        RunError: see `read_edmlx`; nothing is written then.
        ExistsError: `out` exists and may not be replaced.
    """
    check_target(out, MADE_BY, overwrite, [path], "another --out")
    description, tensors = read_edmlx(path, settings, precond)
    if vae is not None and isinstance(description, DiffusionDescription):
        description = description.model_copy(update={"vae": vae.hash()})
    inputs = [path, *([vae.folder] if vae else [])]
    with new_folder(out, MADE_BY, overwrite, inputs) as new:
        save_tensors(new / WEIGHTS, {k: v.float() for k, v in tensors.items()})
        write_json(new / DESCRIPTION, description.as_json())
        if resolved is not None:
            write_json(new / "settings.json", resolved)
        mark(new, MADE_BY)
        checksums.record(new)
    return description
