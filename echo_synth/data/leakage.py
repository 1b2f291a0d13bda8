"""The leakage guard: held-out patients never reach maps, VAE, diffusion or downstream training.

Patients are told apart by name. Two datasets that name different people alike cannot be mixed;
that is refused as well, because nothing in the files could show the difference. The people of the
bundled maps are named phantom0001 and on, as no patient of a dataset is.
"""

from __future__ import annotations

from collections.abc import Iterable

from echo_synth.data import nnunet_raw
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


def refuse_patients_of(evaluated_on: nnunet_raw.RawDataset, patients: Iterable[str], purpose: str) -> None:
    """Raise LeakageError when any of `patients` is a test patient of the dataset that is evaluated on.

    Args:
        evaluated_on: the real dataset whose test patients judge the result.
        patients: whoever training, maps or generation used: a map index's or cases.csv's column
            patient, or the patients that a run was trained on.
        purpose: what they were used for, e.g. "condition maps in FOLDER" or "training of RUN".
    """
    refuse_test_patients(patients, nnunet_raw.test_patients(evaluated_on), f"{purpose}, for {evaluated_on.name}")
