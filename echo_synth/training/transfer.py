"""Starting a network from another's weights: all of them, or, at another resolution, those that have a place in it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from echo_synth.errors import RunError
from echo_synth.runs.description import Description, DiffusionDescription
from echo_synth.runs.folder import Run
from echo_synth.runs.tensors import load_tensors, load_weights

_LEAST = 0.5  # of the parameters; with fewer in common, a start from these weights is not what was meant
_SIDE = re.compile(r"(\d+)x\1_")


def start_from(module: nn.Module, description: Description, run: Run) -> float:
    """Give `module` the weights of `run`; returns the share of its parameters that they set.

    The same model must fit exactly. A diffusion model of another resolution gives what has the same
    place, levels counted from the finest, and the same shape: EDM-L64 is a start for EDM-L128.

    Args:
        module: freshly initialised; keeps its own values where `run` has none.
        description: its model.json.
        run: of the same kind.

    Raises RunError when the same model is of another size, or another has another formulation or less than half in common.
    """
    theirs = run.description
    if (
        description.model == theirs.model
        or not isinstance(description, DiffusionDescription)
        or not isinstance(theirs, DiffusionDescription)
    ):
        load_weights(module, run.weights)
        return 1.0
    for name in ("precond", "architecture"):
        if getattr(description, name) != getattr(theirs, name):
            raise RunError(
                f"{run.folder}: its {name} is {getattr(theirs, name)}, {description.model} has {getattr(description, name)}; "
                "expected a run of the same formulation at another resolution, or of the same model"
            )
    offered = _by_level(load_tensors(run.weights)[0], theirs.resolution)
    own = dict(module.named_parameters())
    places = {place: name for name, place in zip(own, _by_level(own, description.resolution), strict=True)}
    taken = {places[p]: t for p, t in offered.items() if p in places and t.shape == own[places[p]].shape}
    share = sum(t.numel() for t in taken.values()) / sum(p.numel() for p in own.values())
    if share < _LEAST:
        raise RunError(
            f"{run.folder}: only {share:.0%} of the parameters of {description.model} at size {description.size} have a "
            f"counterpart in this {theirs.model} at size {theirs.size}; expected half or more. Is it of another size?"
        )
    module.load_state_dict(taken, strict=False)
    return share


def _by_level(tensors: Mapping[str, Tensor], resolution: int) -> dict[str, Tensor]:
    """Tensors by names in which 64x64_ reads level0_ where 64 is the finest grid."""
    return {
        _SIDE.sub(lambda m: f"level{(resolution // int(m[1])).bit_length() - 1}_", k): t for k, t in tensors.items()
    }
