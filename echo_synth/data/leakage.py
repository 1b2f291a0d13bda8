"""The leakage guard: held-out patients never reach maps, VAE, diffusion or downstream training.

Patients are identified by id. Two datasets that use the same id for different people cannot be mixed;
this is refused too, because the files do not show the difference. The simulated patients of the
bundled maps are called phantom0001 and so on, as no patient of a dataset is.
"""

from __future__ import annotations

from collections.abc import Iterable

from echo_synth.data import nnunet_raw
from echo_synth.errors import LeakageError


def refuse_test_patients(patients: Iterable[str], held_out: Iterable[str], purpose: str) -> None:
    """Raise LeakageError that names them when any of `patients` is in `held_out`.

    Args:
        purpose: what they would be used for, e.g. "condition maps".
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
        evaluated_on: the real dataset whose test patients are used to evaluate the result.
        patients: those used by training, maps or generation: the column patient of a map index or of
            cases.csv, or the patients that a run was trained on.
        purpose: what they were used for, e.g. "condition maps in FOLDER" or "training of RUN".
    """
    refuse_test_patients(patients, nnunet_raw.test_patients(evaluated_on), f"{purpose}, for {evaluated_on.name}")
