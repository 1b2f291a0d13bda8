"""Folders of versions that recorded no hashes: which files there should be, and whether each unpacks whole.

Images are gzip and PNG, which carry checksums of their own; tables do not, so a changed number in one is not seen.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from echo_synth.checksums import Comparison, Fault
from echo_synth.data import nnunet_raw
from echo_synth.data.maps import read_held_out, read_map
from echo_synth.data.nnunet_raw import RawDataset
from echo_synth.data.png import read_grey_png
from echo_synth.data.tables import read_cases, read_index, read_manifest
from echo_synth.errors import EchoSynthError
from echo_synth.files import listed
from echo_synth.parallel import available_cores
from echo_synth.progress import track

_MOST_UNPACKED = 1 << 28  # bytes of an image
_CHUNK = 1 << 20
Check = Callable[[Path], object]


def look_at_dataset(dataset: RawDataset) -> Comparison:
    """Files of a raw dataset against its cases.csv; references to other datasets are followed."""
    tables: dict[str, Check] = {"dataset.json": lambda _: nnunet_raw.describe(dataset), "cases.csv": read_cases}
    if (dataset.path / "manifest.parquet").exists():
        tables["manifest.parquet"] = read_manifest
    found = look(dataset.path, tables)
    if any(fault.file in tables for fault in found.faults):
        return found
    names: dict[str, Check] = {}
    for row in dataset.cases().itertuples():
        for path in (
            dataset.image_path(str(row.case), str(row.split)),
            dataset.label_path(str(row.case), str(row.split)),
        ):
            names[_relative(path, dataset.path)] = unpack
    _add(found, look(dataset.path, names))
    folders = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
    present = {f"{folder}/{p.name}" for folder in folders for p in listed(dataset.path / folder, "*")}
    found.faults += [Fault("extra", name) for name in sorted(present - names.keys())]
    return found


def look_at_pictures(folder: Path) -> Comparison:
    """Files of a classification folder against its cases.csv."""
    found = look(folder, {"cases.csv": read_cases})
    if found.faults:
        return found
    cases = read_cases(folder / "cases.csv")
    names: dict[str, Check] = {f"{r.split}/{r.view}/{r.case}.png": read_grey_png for r in cases.itertuples()}
    _add(found, look(folder, names))
    places = {name.rpartition("/")[0] for name in names}
    present = {f"{place}/{p.name}" for place in places for p in listed(folder / place, "*")}
    found.faults += [Fault("extra", name) for name in sorted(present - names.keys())]
    return found


def look_at_maps(folder: Path) -> Comparison:
    """Files of a folder of condition maps against its index.parquet."""
    found = look(folder, {"index.parquet": read_index, "held_out.json": lambda _: read_held_out(folder)})
    if found.faults:
        return found
    names: dict[str, Check] = {f"{name}.png": read_map for name in read_index(folder / "index.parquet")["map"]}
    _add(found, look(folder, names))
    found.faults += [Fault("extra", p.name) for p in listed(folder, "*.png") if p.name not in names]
    return found


def unpack(path: Path) -> None:
    """Read a gzip file to its end, which its checksum stands at. Raises EchoSynthError, OSError, EOFError or zlib.error."""
    size = 0
    with gzip.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > _MOST_UNPACKED:
                raise EchoSynthError(f"unpacks to more than {_MOST_UNPACKED} bytes")


def look(folder: Path, checks: Mapping[str, Check]) -> Comparison:
    """Whether each file is there, and its check raises nothing that a damaged file raises."""
    result = Comparison()
    for name, why in track(_checked(folder, checks), len(checks), "verify", "files"):
        path = folder / name
        if not path.exists():
            result.faults.append(Fault("missing", name))
            continue
        result.files += 1
        result.size += path.stat().st_size
        if why:
            result.faults.append(Fault("altered", name, why))
    return result


def _checked(folder: Path, checks: Mapping[str, Check]) -> Iterator[tuple[str, str]]:
    def why(name: str) -> str:
        try:
            if (folder / name).is_file():
                checks[name](folder / name)
        except (EchoSynthError, OSError, EOFError, zlib.error) as e:
            return str(e)
        return ""

    with ThreadPoolExecutor(available_cores()) as pool:
        yield from zip(checks, pool.map(why, checks), strict=True)


def _add(found: Comparison, more: Comparison) -> None:
    found.files += more.files
    found.size += more.size
    found.faults += more.faults


def _relative(path: Path, folder: Path) -> str:
    """Name of a file below `folder`, or the whole path of one that dataset.json refers to."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
