"""Shared data: a few phantom patients, converted once per test process."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.short import FEWER
from tests.warm import Warm, serve_for

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Containers often say so. Then every process would compile all of this anew, the tests' assertions too, which takes seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Of a suite that was started in the background: it ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _take_one_core() -> None:
    """Of several test processes each has a core of its own: threads and worker processes of two that share cores wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1, …
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


_take_one_core()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `long` run on request. Of several test processes none is left with a long one at the end: quick ones come last."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if os.environ.get("ECHOSYNTH_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="ECHOSYNTH_LONG is not 1"))


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own nnU-Net or EchoSynth folders reaches a test."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _few_pictures() -> Iterator[None]:
    """Trainings in this process are as those of tests/short.py."""
    with pytest.MonkeyPatch.context() as patch:
        for place, shorter in FEWER.items():
            patch.setattr(place.replace(":", "."), shorter)
        yield


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of several test processes makes and all others copy, each for itself: tests write beside what is there."""
    together = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    shared, own = together / f"shared-{name}", factory.mktemp(name) / name
    with open(together / f"shared-{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done := shared / "made").exists():
            shared.mkdir()
            make(shared / "folder")
            done.touch()
    shutil.copytree(shared / "folder", own, symlinks=True)
    return own


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    """Processes whose libraries are loaded, of one server for all test processes."""
    everybody = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "server").write_text(str(serve_for(everybody).folder))

    return Warm(Path((_once(tmp_path_factory, "warm", make) / "server").read_text()))


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantom patients in the NIfTI release's layout."""
    from echo_synth.phantom import write_phantom

    return _once(tmp_path_factory, "phantom", lambda folder: write_phantom(folder, 5, 3, "nifti", {}, workers=1))


@pytest.fixture(scope="session")
def converted(phantom: Path, _few_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ECHOSYNTH_HOME that holds the phantom as dataset 501, with maps, and prepared for trainings."""
    return _once(tmp_path_factory, "home", lambda folder: _convert(phantom, folder))


def _convert(phantom: Path, home: Path) -> None:
    from cli.data_commands import convert_camus, make_maps
    from echo_synth.data import nnunet_raw
    from echo_synth.data.prepared import prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSYNTH_HOME", str(home))
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.delenv(name, raising=False)
        convert_camus(phantom, 501, name="PHANTOM", split=str(phantom / "database_split"), workers=1)
        make_maps(501, repeats=2, workers=1)
        prepare(nnunet_raw.find(501))


@pytest.fixture
def home(converted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`converted` as the present ECHOSYNTH_HOME."""
    monkeypatch.setenv("ECHOSYNTH_HOME", str(converted))
    return converted


@pytest.fixture
def own_home(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `converted` as the present ECHOSYNTH_HOME, for tests that draw or leave runs in it: others share `home`."""
    folder = tmp_path / "own_home"
    for part in ("nnunet/raw", "datasets/classification", "maps"):
        shutil.copytree(converted / part / "Dataset501_PHANTOM", folder / part / "Dataset501_PHANTOM")
    monkeypatch.setenv("ECHOSYNTH_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def camus() -> Path:
    """Real CAMUS data, where the machine has it."""
    folder = os.environ.get("ECHOSYNTH_CAMUS")
    if not folder:
        pytest.skip("ECHOSYNTH_CAMUS is not set")
    return Path(folder)
