"""What many processes agree on, with gloo on this machine."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.multiprocessing as mp

from echo_synth.errors import DataError
from echo_synth.training import distributed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]


def _join(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}


def _wait_longer_than_a_step(rank: int, folder: Path) -> None:
    distributed._COLLECTIVES = timedelta(seconds=2)

    def prepare() -> str:
        time.sleep(4)
        return "prepared"

    answer = distributed.on_main("cpu", prepare)
    with distributed.main_first("cpu"):
        if rank == 0:
            time.sleep(4)
        found = sorted(p.name for p in folder.iterdir())
        (folder / f"{rank}").write_text(f"{answer} {found}", encoding="utf-8")


def _fail(rank: int, folder: Path) -> None:

    def refuse() -> None:
        raise DataError("no such dataset")

    try:
        distributed.on_main("cpu", refuse)
    except DataError as e:
        (folder / f"{rank}").write_text(str(e), encoding="utf-8")


def _work(rank: int, port: int, folder: str) -> None:
    _join(rank, port)
    _fail(rank, Path(folder) / "failed")
    _wait_longer_than_a_step(rank, Path(folder) / "waited")


def _port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote, a file each, in `waited` and in `failed`."""
    folder = tmp_path_factory.mktemp("together")
    for name in ("waited", "failed"):
        (folder / name).mkdir()
    mp.spawn(_work, (_port(), str(folder)), nprocs=2)
    return folder


def test_others_wait_for_the_main_process_longer_than_a_step_may_take(answers: Path) -> None:
    assert (answers / "waited" / "0").read_text() == "prepared []"
    assert (answers / "waited" / "1").read_text() == "prepared ['0']"  # and finds what the first one left


def test_an_error_of_the_main_process_is_everyones(answers: Path) -> None:
    assert [(answers / "failed" / str(rank)).read_text() for rank in range(2)] == ["no such dataset"] * 2
