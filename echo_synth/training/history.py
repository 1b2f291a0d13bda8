"""history.csv and TensorBoard events of a run; rewound to the state's step on resume."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from echo_synth.files import disk_error, write_text

COLUMNS = ("images", "step", "split", "name", "value", "lr", "images_per_second")


class History:
    """Rows (images, step, split, name, value, lr, images_per_second), appended as training goes."""

    def __init__(self, folder: Path, resume_images: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "history.csv"
        self._rewind(resume_images)
        with self._told():
            self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_images + 1)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of writing, also those that TensorBoard's thread met earlier, in words that say what to do."""
        try:
            yield
        except OSError as e:
            raise disk_error(e, self.path.parent) from e

    def _rewind(self, images: int) -> None:
        rows: list[list[str]] = []
        if images and self.path.is_file():
            with open(self.path, newline="", encoding="utf-8", errors="replace") as f:
                whole = [r for r in list(csv.reader(f))[1:] if len(r) == len(COLUMNS) and r[0].isdigit()]
            rows = [r for r in whole if int(r[0]) <= images]
        write_text(self.path, "".join(",".join(r) + "\n" for r in [list(COLUMNS), *rows]))

    def add(self, images: int, step: int, split: str, values: Mapping[str, float], lr: float, rate: float) -> None:
        """One row for each named value. Raises DataError when the disk is full or not writable."""
        with self._told():
            with open(self.path, "a", newline="", encoding="utf-8") as f:
                writer = csv.writer(f)
                for name, value in values.items():
                    writer.writerow([images, step, split, name, f"{value:.6g}", f"{lr:.4g}", f"{rate:.2f}"])
            for name, value in values.items():
                self._board.add_scalar(f"{split}/{name}", value, images)

    def image(self, name: str, pixels: Any, images: int) -> None:
        """A picture (H, W) or (H, W, 3) uint8 for TensorBoard."""
        with self._told():
            self._board.add_image(name, pixels, images, dataformats="HW" if pixels.ndim == 2 else "HWC")

    def close(self) -> None:
        """Write what is left of TensorBoard's events."""
        with self._told():
            self._board.close()
