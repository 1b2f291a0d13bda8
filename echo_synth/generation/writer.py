"""Images to disk as they are drawn: nnU-Net raw dataset and classification folder at once.

Every file is written under a temporary name and renamed; an image counts as done when its
image file has its final name, which comes last. So a kill costs at most the batch in flight.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from echo_synth import specs
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import write_image
from echo_synth.errors import ExistsError
from echo_synth.files import PARTIAL, disk_error, read_json, write_json
from echo_synth.generation.manifest import MANIFEST, write_manifest

_SETTINGS = "settings.json"


@dataclass
class DatasetWriter:
    """Streams one synthetic dataset.

    Args:
        raw: DatasetNNN_Name folder, made if missing.
        classification: folder that gets {train,val}/{2CH,4CH}/CASE.png.
        rows: the plan, see `manifest.plan_images`.
        identity: settings that decide the files' content; a folder made with others is refused.
        shard: this process and how many there are.
    """

    raw: Path
    classification: Path
    rows: pd.DataFrame
    identity: Mapping[str, Any]
    shard: tuple[int, int] = (0, 1)
    _pool: ThreadPoolExecutor = field(init=False, repr=False)
    _pending: list[Future[None]] = field(init=False, repr=False, default_factory=list)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folders, or check that those there belong to the same dataset.

        Raises ExistsError when the folder holds a dataset with other settings.
        """
        known = self.raw / _SETTINGS
        if known.is_file():
            before = read_json(known).get("identity", {})
            changed = [k for k in self.identity if before.get(k) != _jsonable(self.identity[k])]
            if changed:
                k = changed[0]
                raise ExistsError(
                    f"{self.raw} was made with {k} = {before.get(k)}, now {self.identity[k]}; "
                    "repeat the old settings to complete it, or choose another --dataset-id"
                )
        elif self.raw.exists() and any(self.raw.iterdir()):
            raise ExistsError(
                f"{self.raw} exists and was not made by 'echosynth generate'; choose another --dataset-id"
            )
        try:
            for folder in (self.raw / "imagesTr", self.raw / "labelsTr", *self._class_folders()):
                folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._temporary(), ignore_errors=True)
            self._temporary().mkdir()
        except OSError as e:
            raise disk_error(e, self.raw) from e
        if not known.is_file():
            write_json(known, {**settings, "identity": dict(self.identity)})
        self._pool = ThreadPoolExecutor(2)

    def _class_folders(self) -> list[Path]:
        return [self.classification / s / v for s in ("train", "val") for v in ("2CH", "4CH")]

    def _temporary(self) -> Path:
        return self.raw / f"{PARTIAL}{self.shard[0]}-of-{self.shard[1]}"

    def missing(self) -> NDArray[np.bool_]:
        """Which rows of the plan have no finished image yet, (N,) bool."""
        ending = f"_0000{nnunet_raw.ENDING}"
        have = {e.name.removesuffix(ending) for e in os.scandir(self.raw / "imagesTr")}
        return ~self.rows["case"].isin(have).to_numpy()

    def submit(self, row: Mapping[str, Any], image: NDArray[np.uint8], tissues: NDArray[np.uint8]) -> None:
        """Write one image in the background; waits when writing falls behind, so memory stays flat."""
        while len(self._pending) >= 32:
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(self._write, dict(row), image, tissues))

    def _write(self, row: dict[str, Any], image: NDArray[np.uint8], tissues: NDArray[np.uint8]) -> None:
        case, spacing = row["case"], (row["spacing_row_mm"], row["spacing_column_mm"])
        fold = np.array([t.nnunet for t in specs.labels().tissues.values()], np.uint8)
        temporary = self._temporary()
        files = [
            (temporary / f"{case}{nnunet_raw.ENDING}", self.raw / "labelsTr"),
            (temporary / f"{case}.png", self.classification / row["split"] / row["view"]),
            (temporary / f"{case}_0000{nnunet_raw.ENDING}", self.raw / "imagesTr"),
        ]
        try:
            write_image(files[0][0], fold[tissues], spacing)
            Image.fromarray(image).save(files[1][0])
            write_image(files[2][0], image, spacing)
            for path, folder in files:
                _move(path, folder / path.name)
        except OSError as e:
            raise disk_error(e, self.raw) from e

    def flush(self) -> None:
        """Wait until everything submitted is on disk; raises what a write raised."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def close(self) -> None:
        """Stop the writing threads and remove this shard's temporary folder."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._temporary(), ignore_errors=True)

    def finish(self, recorded: Mapping[str, Any]) -> bool:
        """Write index files and manifest once no image is missing. Any shard may be the last; all write the same."""
        if self.missing().any():
            return False
        cases = self.rows.drop(columns=["index"]).assign(rows=256, columns=256)
        nnunet_raw.write_index(self.raw, cases)
        (self.classification / "cases.csv").write_bytes((self.raw / "cases.csv").read_bytes())
        write_manifest(self.raw / MANIFEST, self.rows, recorded)
        return True


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as e:
        if e.errno != 18:  # EXDEV: the classification folder is on another file system
            raise
        partial = target.with_name(PARTIAL + target.name)
        shutil.copyfile(source, partial)
        os.replace(partial, target)
        source.unlink()


def _jsonable(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value, default=str))
