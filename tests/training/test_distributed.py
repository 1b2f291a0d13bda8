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

pytestmark = pytest.mark.slow


def _join(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}


def _wait_longer_than_a_step(rank: int, port: int, folder: str) -> None:
    _join(rank, port)
    distributed._COLLECTIVES = timedelta(seconds=2)

    def prepare() -> str:
        time.sleep(4)
        return "prepared"

    answer = distributed.on_main("cpu", prepare)
    with distributed.main_first("cpu"):
        if rank == 0:
            time.sleep(4)
        found = sorted(p.name for p in Path(folder).iterdir())
        (Path(folder) / f"{rank}").write_text(f"{answer} {found}", encoding="utf-8")


def _fail(rank: int, port: int, folder: str) -> None:
    _join(rank, port)

    def refuse() -> None:
        raise DataError("no such dataset")

    try:
        distributed.on_main("cpu", refuse)
    except DataError as e:
        (Path(folder) / f"{rank}").write_text(str(e), encoding="utf-8")


def _port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_others_wait_for_the_main_process_longer_than_a_step_may_take(tmp_path: Path) -> None:
    mp.spawn(_wait_longer_than_a_step, (_port(), str(tmp_path)), nprocs=2)
    assert (tmp_path / "0").read_text() == "prepared []"
    assert (tmp_path / "1").read_text() == "prepared ['0']"  # and finds what the first one left


def test_an_error_of_the_main_process_is_everyones(tmp_path: Path) -> None:
    mp.spawn(_fail, (_port(), str(tmp_path)), nprocs=2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["no such dataset"] * 2
