"""cfg files, split lists, sweep specs, JSON and the Γ prior, damaged."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

from echo_synth import files, specs
from echo_synth.data import camus, splits
from echo_synth.evaluation.latent_prior import read_prior
from echo_synth.experiment.cells import build_cells
from echo_synth.experiment.spec import read_sweep
from tests.fuzz.harness import Kind, mutate

_TOKENS = [
    *(b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"9" * 5000, b"1_0", "１２".encode(), b"%s", b"%(x)s", b"\0"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b":", b": :", b"true", b"", b" ", b"F F", b"0x10", b"1,5", b"\xe2\x80\xa8"),
]
_LINES = [
    *(b"# comment", b"patient0001", b"patient00001", b"PATIENT0001", b"../patient0001", b"patient0001 patient0002"),
    *("patient０００１".encode(), b"patient9999", b"\xff\xfe", b"p\xe9"),
]
_YAML = [
    *("-1", "0", "1e99", ".nan", ".inf", "null", "[]", "{}", "''", "true", "!!python/object/apply:os.system [id]"),
    *("!!binary aGk=", "!!timestamp 2001-99-99", "2001-13-45", "9" * 5000, "&a [*a]", "!!set {a}", "!!omap [a: 1]"),
    *("[[[[[]]]]]", "../../up", '"a\\nb"', "0o17", "0x1g", "1:61:61", "!!int abc", "!!float abc", "'\\x00'", "<<: 1"),
    *("? [1,2]", "!!str 1", "1.5", "[1, 1]", "[-5]", "[0]", "[100000]", "[1.5]", "[true]", "*x", "!foo bar", "🎉"),
    *("{a: {kind: real}}", "[" * 200 + "]" * 200),
]
_KEYS = ("real", "count", "seeds", "models", "cells", "compare", "reference", "repeats", "batch", "zzz", "1", "maps")
_JSON = [
    *(b"null", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"[]", b"{}", b'"x"', b"true", b"9" * 5000, b"[" * 100000),
    *(b'{"a":' * 50000, b'"\\ud800"', b"1.5", b"99999999"),
]


def kinds(base: Path, scratch: Path) -> list[Kind]:
    """One kind a reader of text."""
    return [_cfg(base, scratch), _split(base, scratch), _sweep(scratch), _json(base, scratch), _prior(scratch)]


def _cfg(base: Path, scratch: Path) -> Kind:
    whole = (base / "phantom/database_nifti/patient0001/Info_2CH.cfg").read_bytes()

    def make(rng: random.Random, _: int) -> bytes:
        how, lines = rng.randrange(4), whole.splitlines()
        if how == 0:
            return mutate(rng, whole)
        for _ in range(rng.choice([1, 2, 3])):
            at = rng.randrange(len(lines))
            if how == 1:
                lines[at] = lines[at].split(b":")[0] + b": " + rng.choice(_TOKENS)
            elif how == 2:
                lines.insert(at, rng.choice(_TOKENS) + b": " + rng.choice(_TOKENS))
            else:
                del lines[at]
                lines = lines or [b"x"]
        return rng.choice([b"\n", b"\r\n", b"\r", b"\x0b", "\u2028".encode()]).join(lines)

    def read(data: bytes) -> None:
        (scratch / "Info_2CH.cfg").write_bytes(data)
        for name, value in camus.read_info(scratch, "2CH").items():
            if isinstance(value, (int, float)):
                assert math.isfinite(value), f"accepted {name} {value}"
                assert value >= 0, f"accepted {name} {value}"
                assert name != "ef" or value <= 100, f"accepted EF {value}"

    return Kind("cfg", make, read)


def _split(base: Path, scratch: Path) -> Kind:
    whole = {f.name: f.read_bytes() for f in (base / "phantom/database_split").iterdir()}
    patients = sorted(p.name for p in (base / "phantom/database_nifti").iterdir())

    def make(rng: random.Random, _: int) -> dict[str, bytes]:
        damaged, name, how = dict(whole), rng.choice(sorted(whole)), rng.randrange(6)
        lines = damaged[name].splitlines()
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_LINES))
        code = rng.choice(["utf-16", "utf-32", "latin1"])
        damaged[name] = [
            mutate(rng, whole[name]),
            b"\xef\xbb\xbf" + whole[name],
            b"\n".join(lines),
            b"\r\n".join(whole[name].splitlines()),
            whole[name].decode().encode(code),
            b"",
        ][how]
        return damaged

    def read(damaged: dict[str, bytes]) -> None:
        for name, data in damaged.items():
            (scratch / name).write_bytes(data)
        split = camus.assign_splits(patients, splits.read_split(scratch))
        assert "val" in camus.hold_out_validation(split).values()

    return Kind("split", make, read)


def _sweep(scratch: Path) -> Kind:
    presets = [f.read_text() for f in sorted((specs.root() / "presets/sweeps").glob("*.yaml"))]

    def make(rng: random.Random, _: int) -> bytes:
        text, how = rng.choice(presets), rng.randrange(5)
        if how == 0:
            return mutate(rng, text.encode())
        lines = text.splitlines()
        for _ in range(rng.choice([1, 1, 2])):
            at, value = rng.randrange(len(lines)), rng.choice(_YAML)
            if how == 1:
                lines[at] = re.sub(r":\s.*", lambda m, v=value: f": {v}", lines[at])  # type: ignore[misc]
            elif how == 2:
                pattern = r"(\w+): ([^,{}\[\]]+|\[[^\]]*\])"
                lines[at] = re.sub(
                    pattern, lambda m, v=value: f"{m[1]}: {v}" if rng.random() < 0.4 else m[0], lines[at]
                )  # type: ignore[misc]
            elif how == 3:
                del lines[at]
                lines = lines or [""]
            else:
                lines.insert(at, f"{rng.choice(['', '  ', '- '])}{rng.choice(_KEYS)}: {value}")
        return "\n".join(lines).encode()

    def read(data: bytes) -> None:
        (scratch / "s.yaml").write_bytes(data)
        sweep = read_sweep(scratch / "s.yaml")
        fingerprints = {"real": "r", "maps": "m", "trainer": "t"} | dict.fromkeys(sweep.models, "w")
        names = [cell.name for cell in build_cells(sweep, fingerprints)]
        assert len(names) == len(set(names)), "two cells of one name"
        assert all(name.isprintable() and "/" not in name for name in names), "a cell name that is no file name"
        assert sweep.batch > 0, "accepted a batch below 1"
        assert all(seed >= 0 for seed in sweep.seeds), "accepted a seed that generate refuses"

    return Kind("sweep_yaml", make, read)


def _json(base: Path, scratch: Path) -> Kind:
    whole = next((base / "home/maps").glob("*/settings.json")).read_bytes()

    def make(rng: random.Random, _: int) -> bytes:
        if rng.randrange(3) == 0:
            return mutate(rng, whole)
        pattern = rb'(: )("[^"]*"|[\d.]+|\[[^\]]*\])'
        return re.sub(pattern, lambda m: m[1] + rng.choice(_JSON) if rng.random() < 0.1 else m[0], whole)

    def read(data: bytes) -> None:
        (scratch / "j.json").write_bytes(data)
        files.read_json(scratch / "j.json")

    return Kind("json", make, read)


def _prior(scratch: Path) -> Kind:
    def make(rng: random.Random, number: int) -> bytes:
        if number % 2 == 0:
            return mutate(rng, b'{"alpha": 3.75, "beta": 10.8}')
        return b'{"alpha": %s, "beta": %s}' % (rng.choice([*_JSON, b"3.75"]), rng.choice([*_JSON, b"10.8"]))

    def read(data: bytes) -> None:
        (scratch / "p.json").write_bytes(data)
        assert all(math.isfinite(value) for value in read_prior(scratch / "p.json")), (
            "accepted a prior that is no number"
        )

    return Kind("prior", make, read)
