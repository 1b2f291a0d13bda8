"""Images to disk as they are drawn: nnU-Net raw dataset and classification folder at once.

Every file is written under a temporary name and renamed; an image counts as done when its image,
label and picture have their final names. So a kill costs at most the images that still wait in memory.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth import checksums
from echo_synth.claims import Claim
from echo_synth.data import nnunet_raw
from echo_synth.data.facts import CARD, DATASET, facts_in, write_facts
from echo_synth.data.nifti import write_image
from echo_synth.data.png import pack_grey_png
from echo_synth.data.subject import SUBJECT, Subject, heart, write_subject
from echo_synth.errors import DataError
from echo_synth.files import PARTIAL, disk_error, open_file, write_bytes
from echo_synth.generation.manifest import MANIFEST, write_manifest
from echo_synth.generation.shards import WHOLE, Shard, hold_shard, remove_dead_shards
from echo_synth.parallel import available_cores

PREVIEW = "preview.png"
_INDEXES = (DATASET, CARD, SUBJECT, "splits_final.json", "cases.csv", MANIFEST, PREVIEW)
_WAITING = 512  # images that may wait to be written, 64 MiB: a GPU's large batch must not wait for the one before it
_MOST_THREADS = 4  # packing lets go of the GIL, which drawing needs too; more threads would only take it from there
_SIDE = 256  # pixels of an image, a label and a picture
_PNG_END = b"IEND\xaeB`\x82"
_NIFTI_END = struct.pack("<I", 352 + _SIDE * _SIDE)  # gzip ends with the unpacked length: header and bytes of pixels


@dataclass
class DatasetWriter:
    """Streams one synthetic dataset, whose folders `targets.make_target` has made.

    Args:
        raw: DatasetNNN_Name folder.
        classification: folder that gets {train,val}/VIEW/CASE.png, VIEW 2CH or 4CH, or what `subject` has.
        rows: the plan, see `manifest.plan_images`.
        shard: this process and how many there are.
        subject: what the maps show.
    """

    raw: Path
    classification: Path
    rows: pd.DataFrame
    shard: Shard = WHOLE
    subject: Subject = field(default_factory=heart)
    _pool: ThreadPoolExecutor = field(init=False, repr=False)
    _claim: Claim = field(init=False, repr=False)
    _pending: list[Future[None]] = field(init=False, repr=False, default_factory=list)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold this shard of the dataset and make its folders, until the block ends.

        Raises HeldError when another process draws it, DataError when the disk is full or not writable.
        """
        with hold_shard(self.raw, self.shard) as self._claim:
            try:
                for folder in (self.raw / "imagesTr", self.raw / "labelsTr", *self._class_folders().values()):
                    folder.mkdir(parents=True, exist_ok=True)
                remove_dead_shards(self.raw)
                self._temporary.mkdir(exist_ok=True)
            except OSError as e:
                raise disk_error(e, self.raw) from e
            with ThreadPoolExecutor(min(max(2, available_cores()), _MOST_THREADS)) as self._pool:
                try:
                    yield
                finally:
                    self._pool.shutdown(wait=True, cancel_futures=True)
                    shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def _temporary(self) -> Path:
        return self.raw / f"{PARTIAL}{self.shard.name}"

    def _class_folders(self) -> dict[tuple[str, str], Path]:
        return {(s, v): self.classification / s / v for s in ("train", "val") for v in self.subject.views}

    def has_image(self) -> NDArray[np.bool_]:
        """Which rows of the plan have a whole image, (N,) bool, whether or not its label and picture are there."""
        return self._present(self.raw / "imagesTr", f"_0000{nnunet_raw.ENDING}")

    def missing(self) -> NDArray[np.bool_]:
        """Which rows of the plan are not finished: image, label or picture is not there or cut, (N,) bool."""
        return ~(self.has_image() & self._has_label() & self._has_picture())

    def _has_label(self) -> NDArray[np.bool_]:
        return self._present(self.raw / "labelsTr", nnunet_raw.ENDING)

    def _has_picture(self) -> NDArray[np.bool_]:
        pictures = np.zeros(len(self.rows), bool)
        for (split, view), folder in self._class_folders().items():
            belongs = (self.rows["split"] == split) & (self.rows["view"] == view)
            pictures |= belongs.to_numpy() & self._present(folder, ".png")
        return pictures

    def forget_lost(self) -> None:
        """Files that are to be made again count no longer in SHA256SUMS; others keep their lines, damaged ones too."""
        images = self.rows.loc[~self.has_image(), "case"]
        labels = self.rows.loc[~self._has_label(), "case"]
        lost = [f"imagesTr/{c}_0000{nnunet_raw.ENDING}" for c in images]
        checksums.drop_lines(self.raw, [*lost, *(f"labelsTr/{c}{nnunet_raw.ENDING}" for c in labels)])
        pictures = self.rows[~(self._has_picture() & self.has_image())]  # those of lost images are drawn again
        names = zip(pictures["split"], pictures["view"], pictures["case"], strict=True)
        checksums.drop_lines(self.classification, [f"{split}/{view}/{case}.png" for split, view, case in names])

    def _present(self, folder: Path, ending: str) -> NDArray[np.bool_]:
        files = os.scandir(folder) if folder.is_dir() else ()
        names = {e.name.removesuffix(ending) for e in files if e.name.endswith(ending) and _is_whole(Path(e.path))}
        return self.rows["case"].isin(names).to_numpy()

    def submit(self, row: Mapping[str, Any], image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Write one image in the background; waits when writing falls behind, so memory stays flat.

        Raises HeldError when another process took the dataset over.
        """
        self._claim.check()
        while len(self._pending) >= _WAITING:
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(self._write, dict(row), image, labels))

    def _write(self, row: dict[str, Any], image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        case, spacing = row["case"], (row["spacing_row_mm"], row["spacing_column_mm"])
        label, picture, grey = (
            self._temporary / name
            for name in (f"{case}{nnunet_raw.ENDING}", f"{case}.png", f"{case}_0000{nnunet_raw.ENDING}")
        )
        try:
            write_image(label, labels, spacing)
            picture.write_bytes(pack_grey_png(image))
            write_image(grey, image, spacing)
            _move(label, self.raw / "labelsTr" / label.name)
            _move(picture, self.classification / row["split"] / row["view"] / picture.name)
            _move(grey, self.raw / "imagesTr" / grey.name)
        except OSError as e:
            raise disk_error(e, self.raw) from e

    def flush(self) -> None:
        """Wait until everything submitted is on disk; raises what a write raised."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def finish(self, recorded: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> bool:
        """Write index files and manifest once no image is missing. Any shard may be the last; all write the same.

        Args:
            recorded: columns of the manifest that are the same for all images.
            facts: what dataset.json and CARD.md say of the dataset, see `data.facts`; privacy, once measured, stays.
        """
        if self.missing().any():
            return False
        cases = self.rows.drop(columns=["index"]).assign(rows=_SIDE, columns=_SIDE)
        privacy = self._privacy()
        nnunet_raw.write_index(self.raw, cases, self.subject)
        if facts is not None:
            write_facts(self.raw, {**facts, **privacy})
        write_subject(self.classification, self.subject)
        write_bytes(self.classification / "cases.csv", (self.raw / "cases.csv").read_bytes())
        write_manifest(self.raw / MANIFEST, self.rows, recorded)
        return True

    def _privacy(self) -> dict[str, Any]:
        """What `quality` measured on these images before."""
        try:
            known = facts_in(self.raw)
        except DataError:  # not there yet, or damaged: it is written anew
            return {}
        return {"privacy": known["privacy"]} if "privacy" in known else {}

    def record_sums(self) -> None:
        """SHA256SUMS of both folders, once all else is there; images that were recorded before keep their lines."""
        checksums.record(self.raw, _INDEXES)
        checksums.record(self.classification, ["cases.csv", SUBJECT])


def _is_whole(file: Path) -> bool:
    """Whether the file ends as its format says, which tells a cut or emptied one without unpacking it."""
    try:
        with open_file(file) as opened:
            opened.seek(-len(_PNG_END), os.SEEK_END)
            end = opened.read()
    except OSError:  # shorter than that, or not readable
        return False
    return end == _PNG_END if file.suffix == ".png" else end[-4:] == _NIFTI_END


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as e:
        if e.errno != errno.EXDEV:  # the classification folder is on another file system
            raise
        partial = target.with_name(PARTIAL + target.name)
        shutil.copyfile(source, partial)
        os.replace(partial, target)
        source.unlink()
