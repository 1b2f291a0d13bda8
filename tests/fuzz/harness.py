"""Damaged input for the readers: each input in a forked child with limits of time and memory.

    python -m tests.fuzz.harness MODULE [SECONDS [N]]

throws N inputs of each kind of tests/fuzz/MODULE.py at the product and prints counts by outcome: `ok`,
`clear` (an error of the product's own, of one or two lines), and faults: a foreign exception,
HANG, MEMORY, CRASH, AssertionError (accepted what cannot be). The same input has the same number
every time. What is damaged lies in $FUZZ_BASE (phantom/ and home/, made by phantom, convert-camus
and make-maps); tests/fuzz/test_fuzz.py gives it the tests' own data and runs a small share.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import random
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: F401  # its libraries are no memory that an input takes

from echo_synth.errors import EchoSynthError

SECONDS = 8.0  # of a core's time for one input; a busy machine changes nothing
_SILENT = 300.0  # seconds without a word after which an input counts as stuck
MEMORY = 2 << 30  # bytes, resident, that one input may take; address space alone costs nothing
_SPACE = 4  # times as much address space ends an input, before it ends the machine
_KEPT = 512 << 20  # bytes that a child may keep of its inputs; then a fresh one goes on
_PRODUCT = ("/echo_synth/", "/cli/")


@dataclass(frozen=True)
class Kind:
    """One kind of input: `make(rng, number)` damages something, `read` is the product's reader and what must hold after it."""

    name: str
    make: Callable[[random.Random, int], Any]
    read: Callable[[Any], None]


class _Hang(BaseException):
    """The alarm of an input's time limit; no handler of the product may swallow it."""


def fuzz(kind: Kind, count: int, budget: float = 1e9) -> Counter[str]:
    """Outcomes of inputs 0 to `count` - 1, within `budget` seconds."""
    outcomes: Counter[str] = Counter()
    end, number = time.monotonic() + budget, 0
    while number < count and time.monotonic() < end:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                _child(kind, number, count, end, writer)
            finally:
                os._exit(1)  # never back into the parent's code, which would remove the scratch folder
        os.close(writer)
        number = _watch(child, reader, number, outcomes)
        os.close(reader)
    return outcomes


def _child(kind: Kind, start: int, count: int, end: float, writer: int) -> None:
    """Read inputs from number `start` on until the end; each is told before and after. Never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    most = _SPACE * MEMORY + _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    signal.signal(signal.SIGPROF, _alarm)
    warnings.simplefilter("ignore")
    begun = _status("VmRSS")
    for number in range(start, count):
        if time.monotonic() > end or _status("VmRSS") - begun > _KEPT:
            break
        case = kind.make(random.Random(number), number)
        os.write(writer, f"S {number}\n".encode())
        # The first input of a child may wait for late imports.
        outcome = _outcome(kind, case, SECONDS * (4 if number == start else 1))
        os.write(writer, f"E {number} {outcome}".replace("\n", " ").encode("utf-8", "replace") + b"\n")
    os._exit(0)


def _alarm(*_: object) -> None:
    raise _Hang


def _status(name: str) -> int:
    """Bytes of this process: VmSize, its address space; VmRSS, what is resident; VmHWM, the peak of that."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) << 10


def _outcome(kind: Kind, case: Any, seconds: float) -> str:
    """What became of an input: its reading, and then its memory, which the process is asked for."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident
    before = _status("VmHWM")
    outcome = _reading(kind, case, seconds)
    taken = _status("VmHWM") - before
    return outcome if taken <= MEMORY else f"MEMORY: {taken >> 20} MB resident ({outcome})"


def _reading(kind: Kind, case: Any, seconds: float) -> str:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        kind.read(case)
        return "ok"
    except EchoSynthError as e:
        return "clear" if str(e).count("\n") < 2 and len(str(e)) < 1000 else "CLEAR BUT LONG"
    except _Hang:
        return f"HANG@{_where()}"
    except MemoryError:
        return f"MEMORY@{_where()}"
    except Exception as e:
        return f"FOREIGN:{type(e).__name__}:{str(e)[:60]}@{_where()}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _where() -> str:
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [f for f in frames if any(p in f.filename for p in _PRODUCT)]
    frame = own[-1] if own else frames[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _watch(child: int, reader: int, number: int, outcomes: Counter[str]) -> int:
    """Count what the child tells until it ends; the number of the next input."""
    current, stuck, rest = None, False, b""
    while True:
        if not select.select([reader], [], [], _SILENT)[0]:
            os.kill(child, signal.SIGKILL)  # not even the alarm reaches it
            stuck = True
        data = os.read(reader, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            what, told, *outcome = line.decode("utf-8", "replace").split(" ", 2)
            if what == "S":
                current = int(told)
            else:
                outcomes[f"{outcome[0]}"] += 1
                number, current = int(told) + 1, None
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        outcomes["HANG: not interruptible" if stuck else f"CRASH: signal {os.WTERMSIG(status)}"] += 1
        return (number if current is None else current) + 1
    return number if os.WEXITSTATUS(status) == 0 and current is None and number else number + 1


def faults(outcomes: Counter[str]) -> dict[str, int]:
    """All but success and clear errors."""
    return {outcome: n for outcome, n in outcomes.items() if outcome not in ("ok", "clear")}


def mutate(rng: random.Random, data: bytes, rounds: int | None = None) -> bytes:
    """`data` with a few bytes flipped, cut, repeated, inserted or set to extremes."""
    b = bytearray(data)
    for _ in range(rounds or rng.choice([1, 1, 1, 2, 3, 5, 10])):
        if not b:
            b += bytes([rng.randrange(256)])
            continue
        _mutate_once(rng, b)
    return bytes(b)


def _mutate_once(rng: random.Random, b: bytearray) -> None:
    how, at, other = rng.randrange(8), rng.randrange(len(b)), rng.randrange(len(b))
    n = rng.choice([1, 2, 4, 8, 32])
    if how == 0:
        b[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        b[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif how == 2:
        del b[at : at + rng.choice([1, 2, 4, 8, 64, 1024])]
    elif how == 3:
        b[at:at] = rng.randbytes(n)
    elif how == 4:
        b[at : at + n] = b[other : other + n]
    elif how == 5:
        del b[at:]
    elif how == 6:
        b[at : at + n] = rng.choice(
            [b"\x00" * n, b"\xff" * n, b"\x7f" + b"\xff" * (n - 1), b"\xff" * (n - 1) + b"\x7f"]
        )
    else:
        b[at:at] = b[other : other + rng.choice([4, 16, 128])]


def main() -> int:
    """Run all kinds of a module; 1 when there was a fault."""
    name, *rest = sys.argv[1:]
    seconds = float(rest[0]) if rest else 60.0
    count = int(rest[1]) if len(rest) > 1 else 2000
    base, bad = Path(os.environ["FUZZ_BASE"]), 0
    with tempfile.TemporaryDirectory() as scratch:
        for kind in importlib.import_module(f"tests.fuzz.{name}").kinds(base, Path(scratch)):
            start = time.monotonic()
            outcomes = fuzz(kind, count, seconds)
            took, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
            print(f"== {kind.name}: {outcomes.total()} inputs, {took:.0f} s, at most {peak} MB", flush=True)
            for outcome, n in outcomes.most_common(40):
                print(f"   {n:6d}  {outcome}", flush=True)
            bad += len(faults(outcomes))
    return int(bad > 0)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
