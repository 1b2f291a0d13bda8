"""Run folders: safetensors, model.json, training states and snapshots, damaged."""

from __future__ import annotations

import copy
import importlib
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from echo_synth import specs
from echo_synth.runs.description import describe_classifier
from echo_synth.runs.folder import STATE, WEIGHTS, open_run
from echo_synth.runs.start import check_identity
from echo_synth.training.ema import PowerEma
from echo_synth.training.posthoc import Snapshots, average_of
from echo_synth.training.state import TrainingState
from tests.fuzz.harness import Kind, mutate

_VAE, _DIFFUSION = specs.root() / "bundled" / "gamma-vae-64", specs.root() / "bundled" / "edm-l64"
_SHAPES = [[0], [-1], [2**62, 2], [1 << 40], [], [1.5], "x", None]
_TYPES = ["F16", "F64", "I8", "I64", "BOOL", "BF16", "C64", "F8_E4M3", "bogus", "U64", "F4"]
_METADATA: list[Any] = [
    *({"echosynth": text} for text in ("[1]", "{", "null", "5", "[" * 100000, "9" * 5000, '{"identity": [1]}')),
    *({"echosynth": text} for text in ('{"identity": null}', '{"identity": {"a": 2}, "seed": "x"}')),
    *({"a": 1}, "x", {}),
]
_VALUES: list[Any] = [
    *(None, -1, 0, 1e400, float("nan"), [], {}, "x", True, 10**6, [0], [-1], [1, 2, 3], "../x", [10**6] * 3, 1.5),
    *("hf-hub:x/y", "https://example.org/x", 10**400, "x" * 10**6, [[]] * 1000, 1e-320),
]
_NOT_FINITE = {2: (b"\x00\x7e", b"\x00\x7c"), 4: (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff")}  # NaN and infinity


class _File:
    """A safetensors file in parts: header and body."""

    def __init__(self, path: Path) -> None:
        self.whole = path.read_bytes()
        self.length = struct.unpack("<Q", self.whole[:8])[0]
        self.header = json.loads(self.whole[8 : 8 + self.length])
        self.body = self.whole[8 + self.length :]

    def damaged(self, rng: random.Random) -> bytes:
        header = copy.deepcopy(self.header)
        names = [n for n in header if n != "__metadata__"]
        name, what = rng.choice(names), rng.randrange(9)
        if what == 0:
            header[name]["shape"] = rng.choice([*_SHAPES, header[name]["shape"][::-1]])
        elif what == 1:
            header[name]["dtype"] = rng.choice(_TYPES)
        elif what == 2:
            other, end = header[rng.choice(names)]["data_offsets"], len(self.body)
            header[name]["data_offsets"] = rng.choice(
                [[0, 0], [-1, 4], [4, 0], [0, 1 << 62], [end, end + 4], [0], "x", other]
            )
        elif what == 3:
            header["extra"] = dict(header[name])
        elif what == 4:
            del header[name]
        elif what == 5:
            header["__metadata__"] = rng.choice(_METADATA)
        elif what == 6:
            at, size = header[name]["data_offsets"][0], 2 if header[name]["dtype"] == "F16" else 4
            count = (header[name]["data_offsets"][1] - at) // size
            at += size * rng.randrange(max(1, count))
            body = bytearray(self.body)
            body[at : at + size] = rng.choice(_NOT_FINITE[size])
            return _packed(header, bytes(body))
        elif what == 7:
            length = rng.choice([0, 1, 8, 1 << 63, (1 << 64) - 1, 100_000_001, self.length - 1, self.length + 1])
            return struct.pack("<Q", length) + self.whole[8:]
        else:
            return mutate(rng, self.whole[: 8 + self.length], 1) + self.body
        return _packed(header, self.body)


def _packed(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from _paths(value[key], (*path, key))


def _edited(rng: random.Random, data: Any) -> Any:
    """`data` with one or two values replaced, removed or added."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice([1, 1, 2])):
        path = rng.choice([p for p in _paths(data) if p])
        inside = data
        for key in path[:-1]:
            inside = inside[key]
        what = rng.randrange(3)
        if what == 0 or isinstance(inside, list):
            inside[path[-1]] = copy.deepcopy(rng.choice(_VALUES))
        elif what == 1:
            del inside[path[-1]]
        else:
            added = ["extra", "pretrained", "checkpoint_path", "song", "init", "trained_on", "precond_arguments"]
            inside[rng.choice(added)] = copy.deepcopy(rng.choice(_VALUES))
    return data


def _weights(scratch: Path) -> Kind:
    whole, folder = _File(_VAE / WEIGHTS), scratch / "weights"
    folder.mkdir()
    (folder / "model.json").write_bytes((_VAE / "model.json").read_bytes())

    def read(data: bytes) -> None:
        (folder / WEIGHTS).write_bytes(data)
        module = open_run(folder, "vae").load()
        assert all(bool(torch.isfinite(p).all()) for p in module.parameters()), "loaded weights that are not finite"

    return Kind("weights", lambda rng, _: whole.damaged(rng), read)


def _training(folder: Path) -> TrainingState:
    """A training of four numbers, after one step."""
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    parameters = list(module.parameters())
    state = TrainingState(module, optimizer, PowerEma(parameters, 0.1), 8, 4, Snapshots(module, folder, 1, 2))
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state.step = 1
    return state


def _states(scratch: Path) -> Kind:
    folder = scratch / "state"
    folder.mkdir()
    _training(folder).save(folder / STATE, {"a": 1}, 0)
    whole = _File(folder / STATE)

    def make(rng: random.Random, _: int) -> bytes:
        if rng.randrange(4):
            return whole.damaged(rng)
        header = copy.deepcopy(whole.header)
        numbers = _edited(rng, json.loads(header["__metadata__"]["echosynth"]))
        header["__metadata__"] = {"echosynth": json.dumps(numbers)}
        return _packed(header, whole.body)

    def read(data: bytes) -> None:
        (folder / STATE).write_bytes(data)
        check_identity(folder, {"a": 1, "seed": 0})
        state = _training(folder)
        state.load(folder / STATE)
        assert all(bool(torch.isfinite(t).all()) for t in state.tensors().values()), "a state that is not finite"

    return Kind("training state", make, read)


def _snapshots(scratch: Path) -> Kind:
    whole, folder = _File(_VAE / WEIGHTS), scratch / "averages"
    folder.mkdir()

    def read(data: bytes) -> None:
        for name, content in (("000000005_0.050", whole.whole), ("000000010_0.050", data)):
            (folder / f"{name}.safetensors").write_bytes(content)
        averaged, _ = average_of(scratch, 0.1)
        assert all(bool(torch.isfinite(t).all()) for t in averaged.values()), "an average that is not finite"

    return Kind("snapshots", lambda rng, _: whole.damaged(rng), read)


def _descriptions(scratch: Path) -> Kind:
    classifier = describe_classifier("tf_efficientnetv2_s", 64, ("2CH", "4CH")).as_json()
    written = {
        "vae": json.loads((_VAE / "model.json").read_text()),
        "diffusion": json.loads((_DIFFUSION / "model.json").read_text()),
        "classifier": json.loads(json.dumps(classifier)),
    }
    for kind in written:
        (scratch / kind).mkdir()
        source = _DIFFUSION if kind == "diffusion" else _VAE
        (scratch / kind / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes())

    def make(rng: random.Random, number: int) -> tuple[str, Any]:
        kind = rng.choice(["vae", "vae", "diffusion", "diffusion", "classifier"])
        return kind, rng.choice(_VALUES) if number % 50 == 0 else _edited(rng, written[kind])

    def read(case: tuple[str, Any]) -> None:
        kind, data = case
        (scratch / kind / "model.json").write_text(json.dumps(data))
        run = open_run(scratch / kind, kind)  # type: ignore[call-overload]
        module = run.load()
        assert kind != "classifier", "weights of a VAE in a classifier"
        assert sum(p.numel() for p in module.parameters()) < 10**7

    return Kind("model.json", make, read)


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """One kind a file of a run folder."""
    for module in ("timm", "echo_synth.vae.attention"):  # they take long to import, before the clock runs
        importlib.import_module(module)
    return [_weights(scratch), _states(scratch), _snapshots(scratch), _descriptions(scratch)]
