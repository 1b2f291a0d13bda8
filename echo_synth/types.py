"""Plain records that the stages share. No behaviour beyond naming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from echo_synth.errors import DataError

VIEWS = ("2CH", "4CH")
PHASES = ("ED", "ES")
SPLITS = ("train", "val", "test")


def frame_number(view: str, phase: str) -> int:
    """Kind of image, 0 to 3: view + 2 x phase. Raises ValueError for an unknown view or phase."""
    return VIEWS.index(view) + len(VIEWS) * PHASES.index(phase)


@dataclass(frozen=True, order=True)
class CaseId:
    """patient x view x phase: one image, one mask."""

    patient: str
    view: str
    phase: str

    def __str__(self) -> str:
        return f"{self.patient}_{self.view}_{self.phase}"

    @classmethod
    def parse(cls, name: str, views: Sequence[str] = VIEWS, phases: Sequence[str] = PHASES) -> CaseId:
        """Case of a name such as patient0001_2CH_ED or patient0001_2CH_ED_aug3_seed0.

        Args:
            views, phases: of the dataset; CAMUS's by default.

        Raises DataError when the name does not start with patient, view and phase.
        """
        parts = name.split("_")
        if len(parts) < 3 or parts[1] not in views or parts[2] not in phases:
            raise DataError(
                f"'{name:.100}' is not a case name such as patient0001_{views[0]}_{phases[0]}; "
                f"views are {', '.join(views)}, phases {', '.join(phases)}"
            )
        return cls(parts[0], parts[1], parts[2])

    @classmethod
    def of(cls, name: str) -> CaseId:
        """Case of a name that was checked before, whatever its dataset's views and phases are. Raises DataError for no case name."""
        parts = name.split("_")
        if len(parts) < 3:
            raise DataError(f"'{name:.100}' is not a case name such as patient0001_2CH_ED")
        return cls(parts[0], parts[1], parts[2])
