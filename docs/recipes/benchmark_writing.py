"""Images a second that the writer of synthetic datasets takes, with nothing drawn beside it.

    python docs/recipes/benchmark_writing.py --count 1000 --repeats 5 --home FOLDER

Image, label and picture of every case, as `echosynth generate` writes them: simulated B-mode images of the bundled maps,
drawn before the clock starts. FOLDER should lie where datasets do; what is written there is removed again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echo_synth import specs
from echo_synth.data.maps import open_maps
from echo_synth.data.tissues import anatomy, visible
from echo_synth.generation.manifest import plan_images
from echo_synth.generation.physics import BmodeImages
from echo_synth.generation.run import frames_of
from echo_synth.generation.writer import DatasetWriter
from echo_synth.parallel import available_cores

Cases = list[tuple[dict[str, object], NDArray[np.uint8], NDArray[np.uint8]]]


def cases(rows: pd.DataFrame, different: int, maps: Path) -> Cases:
    """(row, image, labels) of every row; after `different` images they come again."""
    folder, first = open_maps(maps), rows.head(different)
    whole = [folder.read_whole(name) for name in first["map"]]
    tissues = np.stack([visible(map_) for map_ in whole])
    images = BmodeImages(first).draw(
        tissues, frames_of(first, folder.subject), 0, first["index"].tolist(), lambda: None
    )
    records = [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]
    return [(row, images[i % different], anatomy(whole[i % different])) for i, row in enumerate(records)]


def seconds(rows: pd.DataFrame, all_cases: Cases, folder: Path) -> tuple[float, float, int]:
    """Wall time, CPU time and bytes of one dataset."""
    writer = DatasetWriter(folder / "Dataset601_X", folder / "pictures", rows)
    with writer.opened():
        start, busy = time.perf_counter(), time.process_time()
        for row, image, labels in all_cases:
            writer.submit(row, image, labels)
        writer.flush()
        taken = time.perf_counter() - start, time.process_time() - busy
    return *taken, sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--different", type=int, default=32, help="images that differ")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--maps", type=Path, default=specs.root() / "bundled/maps")
    arguments = parser.parse_args()
    n = arguments.count
    rows = plan_images(open_maps(arguments.maps).index, n, 0)
    all_cases = cases(rows, min(n, arguments.different), arguments.maps)
    # All are removed at the end: for some seconds ext4 makes files slowly where many were just removed.
    with tempfile.TemporaryDirectory(dir=arguments.home) as home:
        measured = [seconds(rows, all_cases, Path(home) / str(i)) for i in range(arguments.repeats + 1)][1:]
    walls, busy = [wall for wall, _, _ in measured], [cpu for _, cpu, _ in measured]
    print(
        f"{n / statistics.median(walls):.0f} images/s on {available_cores()} cores "
        f"({n / max(walls):.0f} to {n / min(walls):.0f}, {len(measured)} repeats), "
        f"{1e3 * statistics.median(busy) / n:.2f} ms of CPU and {measured[0][2] / n / 1024:.1f} KiB an image"
    )


if __name__ == "__main__":
    main()
