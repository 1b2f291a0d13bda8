"""Processes that begin with the foreign libraries loaded: most of a short command's time is their import.

A server that has imported them forks whenever it is asked for Python: a process of its own with the
arguments, environment, folder and open files of whoever asks. It imports all of EchoSynth itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.warm.client import Started, ask

ROOT = Path(__file__).parents[2]
_PROGRAM = """#!{python} -IS
import sys
sys.path.insert(0, {here!r})
from client import be_python
be_python({python!r}, {address!r})
"""


@dataclass(frozen=True)
class Warm:
    """A server.

    Attributes:
        folder: of its socket and its program.
    """

    folder: Path

    @property
    def python(self) -> str:
        """A program to call instead of Python, from a shell too."""
        return str(self.folder / "python")

    def start(self, words: Sequence[str], environment: Mapping[str, str], output: int) -> Started:
        """`python WORDS` in the checkout, as a process whose number is known: for tests that kill it.

        Args:
            environment: on top of this process's own.
            output: file that its standard output and error go to.
        """
        files = {0: 0, 1: output, 2: output}
        return ask(str(self.folder / "socket"), words, str(ROOT), {**os.environ, **environment}, files)


def serve_for(process: int) -> Warm:
    """Start a server that ends with `process`."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    program = folder / "python"
    program.write_text(
        _PROGRAM.format(python=sys.executable, here=str(Path(__file__).parent), address=str(folder / "socket"))
    )
    program.chmod(0o700)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm.server", str(folder), str(process)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    server.stdout.close()
    return Warm(folder)
