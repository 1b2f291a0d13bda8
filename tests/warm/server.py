"""The server: imports the foreign libraries, then forks for whoever asks.

python -m tests.warm.server FOLDER PROCESS
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_LIBRARIES = (
    *("pandas", "pyarrow.parquet", "scipy.stats", "scipy.ndimage", "scipy.optimize", "scipy.spatial", "SimpleITK"),
    *("matplotlib.pyplot", "skimage.metrics", "skimage.draw", "yaml", "pydantic", "typer"),
    *("torch", "torch._dynamo", "torch.distributed.run", "accelerate", "safetensors.torch", "timm"),
    *("nnunetv2.run.run_training", "nnunetv2.inference.predict_from_raw_data"),
    "nnunetv2.experiment_planning.plan_and_preprocess_api",
)
_MOST = 1 << 20  # bytes of a request


def main() -> None:
    """Serve; in a process that was asked for, be that process."""
    folder, process = Path(sys.argv[1]), int(sys.argv[2])
    _load()
    _serve(folder, process)()


def _load() -> None:
    """Import the libraries. nnU-Net's own modules, which read the environment as they load, are left to each process."""
    warnings.simplefilter("ignore")
    for name in _LIBRARIES:
        importlib.import_module(name)
    for name in [n for n in sys.modules if n.partition(".")[0] == "nnunetv2"]:
        del sys.modules[name]
    warnings.resetwarnings()
    gc.collect()
    gc.freeze()  # what is never looked at again stays shared


def _serve(folder: Path, process: int) -> Callable[[], None]:
    """Answer until `process` has ended. Returns in a new process only: with what that one has to do."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ended = os.pidfd_open(process)
    print("ready", flush=True)
    while True:
        if ended in select.select([listening, ended], [], [])[0]:
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            os.close(ended)
            return _attend(connection, folder / "python")
        connection.close()


def _attend(connection: socket.socket, python: Path) -> Callable[[], None]:
    """Fork once more; tell whoever asked of the process and of its end. It ends with whoever asked."""
    request, files = _received(connection)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        connection.close()
        return lambda: _become(request, files, python)
    for file in files:
        os.close(file)
    with suppress(OSError):
        connection.sendall(f"{child}\n".encode())
    number = os.pidfd_open(child)
    if number not in select.select([connection, number], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError):
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    assert 0 < size < _MOST
    first, files, *_ = socket.recv_fds(connection, 1, 8)
    return json.loads(first + connection.recv(size - 1, socket.MSG_WAITALL)), list(files)


def _become(request: Mapping[str, Any], files: Sequence[int], python: Path) -> None:
    """The process that was asked for."""
    os.setsid()
    high = [os.dup2(file, 500 + i, inheritable=False) for i, file in enumerate(files)]
    for file in files:
        os.close(file)
    for file, wanted in zip(high, request["files"], strict=True):
        os.dup2(file, wanted)
        os.close(file)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (
        os.fdopen(n, "w", encoding="utf-8", errors=errors, closefd=False, buffering=1 if os.isatty(n) else -1)
        for n, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["cores"])
    sys.executable = str(python)
    sys.path[:0] = [p for p in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if p]
    status: object = 0
    try:
        _run(request["words"])
    except SystemExit as e:
        status = e.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    _end(status)


def _run(words: Sequence[str]) -> None:
    """Python's command line: a module, code, or a file, and its arguments."""
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(module))
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


def _end(status: object) -> None:
    """As the interpreter does, but for taking all the libraries apart, which takes seconds."""
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 255 if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    main()
