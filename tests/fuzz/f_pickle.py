"""Foreign weight files: pickles that want to execute, damaged archives, random instructions. Nothing is executed."""

from __future__ import annotations

import functools
import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echo_synth.compat import importing
from echo_synth.training import perceptual_networks
from tests.fuzz.harness import Kind, mutate

_FLAG = "EXECUTED"
_NAMES = [
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"),
    *(b"c_codecs\nencode\n", b"ctorch\nSize\n", b"ctorch.storage\n_load_from_bytes\n", b"cdnnlib.util\nEasyDict\n"),
    *(b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n", b"ccopyreg\n_reconstructor\n", b"cnumpy\ndtype\n"),
    *(b"cnumpy.core.multiarray\nscalar\n", b"ctorch.nn.modules.linear\nLinear\n", b"cbuiltins\nset\n"),
    *(b"cbuiltins\nobject\n", b"cbuiltins\ndict\n", b"ctorch\nfloat32\n", b"ctorch\ndevice\n"),
]
_LITERALS = [
    *(b"K\x05", b"M\x01\x02", b"X\x03\0\0\0abc", b"C\x04\1\2\3\4", b"]", b"}", b")", b"(", b"\x94", b"h\0", b"h\1"),
    *(b"N", b"G\x7f\xf8\0\0\0\0\0\0", b"\x8a\x01\xff", b"\x8b\xff\0\0\0" + b"\xff" * 255, b"\x8f", b"l", b"t", b"d"),
    *(b"\x85", b"\x86", b"\x87", b"R", b"\x81", b"\x92", b"b", b"s", b"u", b"a", b"e", b"Q", b"P1\n", b"0", b"1", b"2"),
    *(b"\x90", b"\x91", b"o", b"iposix\nsystem\n", b"\x93", b"X\x02\0\0\0f4", b"X\6\0\0\0latin1", b"q\x05"),
    *(b"r\xff\xff\xff\x7f", b"\x95\xff\xff\xff\xff\xff\xff\xff\xff"),
]
_INSTRUCTIONS = [bytes([o]) for o in (*b"().012FIJKLMNPQRSTUVX]abcdeghijlopqrstu}", *range(0x80, 0x99))]


class _Calls:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def _hostile() -> list[bytes]:
    touches = [
        pickle.dumps({"ema": _Calls(call, argument)}, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        for call, argument in ((os.system, f"touch {_FLAG}"), (eval, f"open({_FLAG!r}, 'w')"))
    ]
    others = [_Calls(exec, "1"), _Calls(getattr, "a", "b"), np.arange(10), functools.partial(os.system, "x")]
    return touches + [pickle.dumps(o) for o in (*others, torch.nn.Linear(2, 2))]


def _saved(state: dict[str, torch.Tensor], archive: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=archive)
    return buffer.getvalue()


def _state() -> dict[str, torch.Tensor]:
    names = ("quant_conv_mu.conv.weight", "encoder.blocks.0.conv.conv.weight", "decoder.blocks.0.conv.conv.weight")
    state = OrderedDict((name, torch.ones(2, 3)) for name in names)
    state["encoder.blocks.1.conv1.conv.weight"] = torch.ones(32, 3, 3, 3)
    return state


def _repacked(rng: random.Random, archive: bytes, hostile: list[bytes]) -> bytes:
    source, target = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    packing = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(target, "w", packing) as new:
        for entry in source.infolist():
            data, chance = source.read(entry.filename), rng.random()
            if entry.filename.endswith("data.pkl"):
                data = rng.choice([data, mutate(rng, data), mutate(rng, data), rng.choice(hostile)])
            elif chance < 0.1:
                data = mutate(rng, data)
            elif chance < 0.15:
                continue
            names = [entry.filename] * 10 + ["../" + entry.filename, entry.filename + "/data.pkl"]
            new.writestr(rng.choice(names), data)
    return target.getvalue()


def _random_pickle(rng: random.Random) -> bytes:
    parts = [b"\x80\x04"]
    for _ in range(rng.randrange(3, 60)):
        chance = rng.random()
        source = _NAMES if chance < 0.25 else _LITERALS if chance < 0.95 else _INSTRUCTIONS
        parts.append(rng.choice(source))
    return b"".join(parts) + b"."


def _shared(rng: random.Random) -> bytes:
    """Containers that hold the ones before, often; a large argument that is called for often."""
    if rng.random() < 0.5:
        values: list[Any] = [rng.choice([{}, [], (), "x" * 1000])]
        for _ in range(rng.randrange(2, 200)):
            picked = [rng.choice(values[-3:]) for _ in range(rng.randrange(1, 5))]
            values.append(rng.choice([picked, tuple(picked), {str(k): v for k, v in enumerate(picked)}]))
        return pickle.dumps({rng.choice(["ema", "state_dict", "x"]): values[-1]}, rng.choice([2, 4]))
    large = rng.choice([b"X" + (1 << 22).to_bytes(4, "little") + b"a" * (1 << 22), b"](" + b"N" * 50_000 + b"e"])
    call = rng.choice([b"h\x01h\x02\x85R", b"h\x01h\x02X\x06\0\0\0latin1\x86R", b"h\x01)Rh\x02b", b"h\x01)\x81h\x02b"])
    return b"\x80\x04" + rng.choice(_NAMES) + b"q\x010" + large + b"q\x020](" + call * rng.randrange(1, 3000) + b"e."


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """Weights for import-edmlx, and for --perceptual-weights."""
    state, hostile = _state(), _hostile()
    archive, stream = _saved(state, archive=True), _saved(state, archive=False)
    plain = {"ema": state, "augment": None, "loss": {"a": [1, 2.5, (3,)], "f": frozenset([1])}, "n": 10**30}
    raw = [pickle.dumps(plain, protocol) for protocol in (0, 2, 4)]

    def make(rng: random.Random, number: int) -> bytes:
        if number < len(hostile):
            return hostile[number]
        makers: list[Callable[[], bytes]] = [
            lambda: mutate(rng, rng.choice([archive, stream])),
            lambda: mutate(rng, rng.choice(raw)),
            lambda: _repacked(rng, archive, hostile),
            lambda: mutate(rng, rng.choice(hostile)),
            lambda: _random_pickle(rng),
            lambda: _random_pickle(rng),
            lambda: _shared(rng) if rng.random() < 0.2 else _random_pickle(rng),
        ]
        return rng.choice(makers)()

    def reader(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
        def run(data: bytes) -> None:
            os.chdir(scratch)
            Path(name).write_bytes(data)
            try:
                read(Path(name))
            finally:
                executed = Path(_FLAG).exists()
                Path(_FLAG).unlink(missing_ok=True)
            assert not executed, "executed"

        return run

    return [
        Kind("import", make, reader("x.pkl", importing.read_edmlx)),
        Kind("perceptual weights", make, reader("x.pth", perceptual_networks.read_state)),
    ]
