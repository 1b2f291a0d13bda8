"""The leakage guard: held-out patients never reach maps, VAE, diffusion or downstream training."""

from __future__ import annotations

from collections.abc import Iterable

from echo_synth.errors import LeakageError


def refuse_test_patients(patients: Iterable[str], held_out: Iterable[str], purpose: str) -> None:
    """Raise LeakageError that names them when any of `patients` is in `held_out`.

    Args:
        purpose: what they were asked for, e.g. "condition maps".
    """
    leaked = sorted(set(patients) & set(held_out))
    if leaked:
        names = ", ".join(leaked[:5]) + (f" and {len(leaked) - 5} more" if len(leaked) > 5 else "")
        raise LeakageError(
            f"{names}: held-out test patient(s) asked for as {purpose}; only training and validation "
            "patients may be used, otherwise the evaluation means nothing"
        )
