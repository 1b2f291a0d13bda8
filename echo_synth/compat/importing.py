"""From a file of the paper's authors to a run folder of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from echo_synth.compat import edmlx, infer
from echo_synth.compat.inert import Record
from echo_synth.compat.weights_file import read_pickle
from echo_synth.errors import RunError
from echo_synth.runs.description import DiffusionDescription, VaeDescription, VaeNetwork
from echo_synth.runs.folder import DESCRIPTION, WEIGHTS, VaeRun
from echo_synth.runs.tensors import save_tensors

_MODEL_OF = {"VEPrecond": "ve", "VPPrecond": "vp", "iDDPMPrecond": "sdm"}
_PRECOND_NAME: dict[str, Literal["edm", "ve", "vp", "iddpm"]] = {
    "EDMPrecond": "edm",
    "VEPrecond": "ve",
    "VPPrecond": "vp",
    "iDDPMPrecond": "iddpm",
}
_VAE_RESOLUTION = 256  # of the images of the paper, px
ImportedDescription = VaeDescription | DiffusionDescription


def state_of(record: Record) -> dict[str, Tensor]:
    """The state dict of a module that was read as a Record: parameters and buffers of it and its children."""
    tensors: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        tensors |= {str(k): v for k, v in _mapping(record, kind).items() if isinstance(v, Tensor)}
    for name, child in _mapping(record, "_modules").items():
        if isinstance(child, Record):
            tensors |= {f"{name}.{k}": v for k, v in state_of(child).items()}
    return tensors


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
    record = _denoiser_record(content)
    tensors = state_of(record) if record else _flat_state(content)
    if not tensors:
        raise RunError(f"{path}: no network in it (found {type(content).__name__})")
    empty = [k for k, v in tensors.items() if v.numel() == 0]
    if empty:
        raise RunError(f"{path}: its parameter {empty[0]!r:.80} is empty")
    try:
        return _described(path, record, tensors, settings or {}, precond)
    except (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        ZeroDivisionError,
        OverflowError,
        RuntimeError,
    ) as e:
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
    edmlx.load_vae(settings, _arrays(tensors))  # raises when they do not fit
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
    return description, edmlx.rename_vae(tensors)


def _network(
    path: Path, tensors: dict[str, Tensor], settings: Mapping[str, Any]
) -> tuple[DiffusionDescription, dict[str, Tensor]]:
    denoiser = edmlx.load_denoiser(settings, _arrays(tensors))  # raises when they do not fit
    parts = edmlx.describe_network(settings, tensors)
    resolution = settings["resolution"]
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
    return description, {f"network.{k}": v for k, v in denoiser.network.state_dict().items()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {k: v.detach().float().numpy() for k, v in tensors.items()}


def import_edmlx(
    path: Path, out: Path, settings: Mapping[str, Any] | None, precond: str | None, vae: VaeRun | None
) -> ImportedDescription:
    """Write `path` as a run folder; returns its description. `vae` is the Γ-VAE that a latent model belongs to."""
    from echo_synth.files import write_json

    description, tensors = read_edmlx(path, settings, precond)
    if vae is not None and isinstance(description, DiffusionDescription):
        description = description.model_copy(update={"vae": vae.hash()})
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(out / WEIGHTS, {k: v.float() for k, v in tensors.items()})
    write_json(out / DESCRIPTION, description.as_json())
    return description
