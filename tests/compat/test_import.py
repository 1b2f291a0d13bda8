"""import-edmlx: what the reference code writes comes in unchanged; anything else is refused and never run."""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echo_synth.compat import edmlx, importing
from echo_synth.compat.weights_file import read_pickle
from echo_synth.errors import ExistsError, RunError
from echo_synth.runs.description import VaeDescription
from echo_synth.runs.folder import open_run
from echo_synth.vae.network import GammaVAE


class _Outside(types.ModuleType):
    """A module that exists while a file is written and not when it is read."""


@pytest.fixture
def reference() -> Iterator[types.SimpleNamespace]:
    """The reference's modules as far as its pickles name them: persistence, dnnlib, layer classes."""
    persistence, dnnlib, networks = (
        _Outside("torch_utils.persistence"),
        _Outside("dnnlib.util"),
        _Outside("training.networks"),
    )

    def _reconstruct_persistent_obj(meta: dict) -> object:  # type: ignore[type-arg]
        raise AssertionError("executed")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    easy = type("EasyDict", (dict,), {"__module__": dnnlib.__name__})
    dnnlib.EasyDict = easy  # type: ignore[attr-defined]
    layer = type("Conv2d", (nn.Module,), {"__module__": networks.__name__})
    networks.Conv2d = layer  # type: ignore[attr-defined]

    class Persistent(nn.Module):
        class_name = "UNetBlock"

        def __reduce__(self) -> tuple[object, ...]:
            meta = easy(
                type="class",
                version=6,
                module_src="import os; os.abort()",
                class_name=self.class_name,
                state=self.__dict__,
            )
            return _reconstruct_persistent_obj, (meta,), None

    made = {m.__name__: m for m in (persistence, dnnlib, networks)}
    packages = {n: _Outside(n) for n in ("torch_utils", "dnnlib", "training")}
    sys.modules.update(made | packages)
    yield types.SimpleNamespace(layer=layer, persistent=Persistent)
    for name in made | packages:
        sys.modules.pop(name, None)


def _tree(reference: types.SimpleNamespace, state: dict[str, Tensor], root: nn.Module) -> nn.Module:
    """Nested modules whose state dict is `state`; the inner ones alternate between persistent and plain."""
    for name, value in state.items():
        at, *path = root, *name.split(".")
        for depth, part in enumerate(path[:-1]):
            if part not in at._modules:
                at.add_module(part, reference.persistent() if depth % 2 == 0 else reference.layer())
            at = at._modules[part]  # type: ignore[assignment]
        at.register_parameter(path[-1], nn.Parameter(value.clone()))
    return root


def _network_state() -> tuple[dict[str, Tensor], dict[str, object]]:
    network: dict[str, object] = {"model_type": "DhariwalUNet", "model_channels": 16, "channel_mult": [1, 2]}
    network |= {"num_blocks": 2, "attn_resolutions": [8]}
    settings = {"precond": "EDMPrecond", "resolution": 16, "num_classes": 10, "network": network}
    shape = edmlx.describe_network(settings, {"mlp_shared.0.weight": torch.zeros(12, 10, 3, 3)})["network"]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = edmlx.build_network("adm", **shape)
        for p in module.parameters():
            nn.init.normal_(p, std=0.1)
    return {f"model.{k}": v for k, v in module.state_dict().items()}, settings


def _write_network(reference: types.SimpleNamespace, path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    state, settings = _network_state()
    root = reference.persistent()
    root.class_name, root.sigma_data = "EDMPrecond", np.float64(0.5)
    root._init_kwargs = {"model_type": "DhariwalUNet", "init_weight": np.sqrt(1 / 3), "act": nn.functional.silu}
    path.write_bytes(pickle.dumps({"ema": _tree(reference, state, root), "dataset_kwargs": {"path": "x"}}))
    return state, settings


def test_a_persistent_network_comes_in_unchanged(reference: types.SimpleNamespace, tmp_path: Path) -> None:
    state, settings = _write_network(reference, tmp_path / "network.pkl")
    for name in ("torch_utils.persistence", "dnnlib.util", "training.networks", "training"):
        sys.modules.pop(name)
    description = importing.import_edmlx(tmp_path / "network.pkl", tmp_path / "run", None, None, None)
    assert description.network.blocks == 2
    ours = open_run(tmp_path / "run", "diffusion").load()
    theirs = edmlx.load_denoiser(settings, {k: v.numpy() for k, v in state.items()})
    x, sigma, labels = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 2.0]), torch.randint(0, 10, (2, 16, 16))
    with torch.no_grad():
        assert torch.equal(ours(x, sigma, ours.modulate(labels)), theirs(x, sigma, theirs.modulate(labels)))  # type: ignore[operator]


def _reference_vae_state() -> tuple[GammaVAE, dict[str, Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = GammaVAE([32, 64], 2, 32, activation="none", projection=False)
    renamed: dict[str, Tensor] = OrderedDict()
    outer = {"to_alpha": "quant_conv_mu", "to_beta": "quant_conv_log_sigma", "from_latent": "post_quant_conv"}
    for name, value in vae.state_dict().items():
        head, *rest = name.split(".")
        if head in outer:
            renamed[f"{outer[head]}.conv.{rest[-1]}"] = value
            continue
        path = ".".join(rest[1:]).replace("shortcut", "nin_shortcut.conv").replace("attn.", "")
        path = re.sub(r"^(conv1|conv2|conv)\.", r"\1.conv.", path)
        first_or_last = (value.ndim == 4 and len(rest) == 2) or (
            len(rest) == 2 and value.shape in ((1,), (32,)) and rest[0] == "0"
        )
        prefix = "conv." if first_or_last or (len(rest) == 2 and value.shape == (1,)) else ""
        renamed[f"{head}.blocks.{rest[0]}.{prefix}{path}"] = value
    for name in [n for n in renamed if n.endswith("to_v.weight")]:
        renamed[name.replace("to_v", "proj_attn")] = torch.randn_like(renamed[name])
    return vae, renamed


@pytest.mark.parametrize("stream", [False, True])
def test_a_vae_comes_in_unchanged(stream: bool, tmp_path: Path) -> None:
    vae, state = _reference_vae_state()
    # The decoder's first convolution starts the bottleneck's width; name it as the reference does.
    state = {re.sub(r"decoder\.blocks\.0\.(weight|bias)$", r"decoder.blocks.0.conv.\1", k): v for k, v in state.items()}
    torch.save(OrderedDict(state), tmp_path / "vae.pth", _use_new_zipfile_serialization=not stream)
    description = importing.import_edmlx(tmp_path / "vae.pth", tmp_path / "run", None, None, None)
    assert description.model == "gamma-vae-128"
    assert isinstance(description, VaeDescription)
    assert description.network.channels == (32, 64)
    other = open_run(tmp_path / "run", "vae").load()
    images, sector = torch.rand(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(vae.latent(images, sector), other.latent(images, sector))  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("stream", [False, True])
def test_tensors_of_every_kind(dtype: torch.dtype, stream: bool, tmp_path: Path) -> None:
    base = (torch.randn(4, 6) * 3).to(dtype)
    content = {
        "plain": base,
        "view": base[1:, ::2],
        "turned": base.T,
        "empty": base[:0],
        "scalar": base[0, 0],
        "text": "ü",
    }
    torch.save(content, tmp_path / "t.pth", _use_new_zipfile_serialization=not stream)
    read = read_pickle(tmp_path / "t.pth")
    assert all(torch.equal(read[k], v) if isinstance(v, Tensor) else read[k] == v for k, v in content.items())


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, r"(posix|nt)\.system"),
        (eval, r"\w+\.eval"),
        (exec, r"\w+\.exec"),
        (getattr, r"\w+\.getattr"),
        (__import__, r"\w+\.__import__"),
        (torch.load, r"torch\.serialization\.load"),
        (io.open, r"(_io|io)\.open"),
    ],
)
def test_calls_are_refused_by_name(function: object, named: str, protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    argument = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": _Calls(function, argument)}, protocol))
    with pytest.raises(RunError, match=rf"refused, it asks for {named}; nothing in it was executed"):
        read_pickle(tmp_path / "x.pkl")
    assert not mark.exists()


def test_calls_inside_a_torch_archive_are_refused(tmp_path: Path) -> None:
    for stream in (False, True):
        torch.save(
            {"w": torch.ones(2), "x": _Calls(os.system, "true")},
            tmp_path / "x.pth",
            _use_new_zipfile_serialization=not stream,
        )
        with pytest.raises(RunError, match=r"refused, it asks for posix\.system"):
            read_pickle(tmp_path / "x.pth")


def test_a_record_cannot_be_called(reference: types.SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(_Calls(reference.layer, "argument")))
    with pytest.raises(RunError, match=r"refused, it calls Conv2d\(\)"):
        read_pickle(tmp_path / "x.pkl")


def _rezip(source: Path, target: Path, compression: int = zipfile.ZIP_STORED, **replaced: bytes) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, replaced.get(name.rsplit("/", 1)[-1], old.read(name)))


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


START = b"\x80\x04"
HOSTILE = {
    "the state of one of our own functions": START
    + _name("collections", "OrderedDict")
    + b"N}"
    + _text("__defaults__")
    + b"Ns\x86b0N.",
    "a key that is hashed recursively": START + b"})" + b"\x85" * 200_000 + b"Ns.",
    "a dictionary key of doubling size": START
    + b"}("
    + _text("a")
    + b"".join(b"\x86q" + bytes([i]) + b"h" + bytes([i]) for i in range(1, 30))
    + b"Nu.",
    "a call of a call": START + _name("torch", "FloatStorage") + b")R.",
    "an item of a list": START + b"]K\x00K\x01s.",
    "numpy numbers of objects": START + _name("numpy", "dtype") + _text("O8") + b"\x85R.",
    "bytes that are not text": START + _name("_codecs", "encode") + _text("x") + _text("rot13") + b"\x86R.",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_instructions_reach_stand_ins_only(what: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(HOSTILE[what])
    with pytest.raises(RunError):
        read_pickle(tmp_path / "x.pkl")
    torch.save(OrderedDict(a=torch.ones(2)), tmp_path / "good.pth")  # and nothing was left behind
    assert torch.equal(read_pickle(tmp_path / "good.pth")["a"], torch.ones(2))


def test_what_is_shared_once_stays_shared(tmp_path: Path) -> None:
    shared = {"a": [1, 2]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([shared, shared]))
    read = read_pickle(tmp_path / "x.pkl")
    assert read[0] is read[1]
    assert read[0] == shared


def _doubled(levels: int, empty: object) -> object:
    """`levels` containers that each hold the one before twice: 2^levels paths in a few bytes a level."""
    inner = empty
    for _ in range(levels):
        inner = {"a": inner, "b": inner} if isinstance(inner, dict) else [inner, inner]
    return inner


@pytest.mark.parametrize("empty", [{}, [], ()])
def test_what_doubles_at_each_level_is_refused(tmp_path: Path, empty: object) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": _doubled(40, empty)}))
    assert (tmp_path / "x.pkl").stat().st_size < 1000
    with pytest.raises(RunError, match=r"refused, what it holds is shared so often"):
        importing.read_edmlx(tmp_path / "x.pkl")


def test_modules_that_double_at_each_level_are_refused(reference: types.SimpleNamespace, tmp_path: Path) -> None:
    module = reference.layer()
    for _ in range(18):  # below the limit of paths
        outer = reference.layer()
        outer._modules.update({"a": module, "b": module})
        module = outer
    root = reference.persistent()
    root.class_name = "EDMPrecond"
    root._modules["model"] = module
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": root}))
    with pytest.raises(RunError, match=r"x\.pkl: (refused|more modules in it)"):
        importing.read_edmlx(tmp_path / "x.pkl")


def _storage_stream() -> bytes:
    """A storage of 4 MB in torch's stream format, as raw pickles carry them."""
    buffer = io.BytesIO()
    torch.save(torch.zeros(1 << 20).storage(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _bytes(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


_PAIRS = b"](" + (_text("k") + b"N\x86") * 100_000 + b"e"
_NUMBERS = b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(200_000)) + b"u"
# A function (memo 1), a large argument (memo 2), and instructions that call the one with the other.
COPIES = {
    "text": (_name("_codecs", "encode"), _text("a" * (4 << 20)), b"h\x01h\x02" + _text("latin1") + b"\x86R"),
    "a dictionary": (_name("collections", "OrderedDict"), _PAIRS, b"h\x01h\x02\x85R"),
    "a size": (_name("torch", "Size"), _PAIRS, b"h\x01h\x02\x85R"),
    "a set": (_name("builtins", "set"), b"](" + b"N" * 200_000 + b"e", b"h\x01h\x02\x85R"),
    "the state of a layer": (_name("torch.nn", "Linear"), _NUMBERS, b"h\x01)Rh\x02b"),
    "a storage": (_name("torch.storage", "_load_from_bytes"), _bytes(_storage_stream()), b"h\x01h\x02\x85R"),
}


@pytest.mark.parametrize("what", COPIES)
def test_copies_are_counted(what: str, tmp_path: Path) -> None:
    """A large argument once, a call of a few bytes 2000 times: each makes a copy."""
    function, argument, call = COPIES[what]
    (tmp_path / "x.pkl").write_bytes(START + function + b"q\x010" + argument + b"q\x020](" + call * 2000 + b"e.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RunError, match=r"refused, its tensors would take many times the file's size"):
        read_pickle(tmp_path / "x.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes


def test_very_many_instructions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(START + b"](" + b"N" * 1_000_100 + b"e.")
    with pytest.raises(RunError, match="refused, it has more than 1000000 instructions"):
        read_pickle(tmp_path / "x.pkl")


def test_files_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pkl")
    with pytest.raises(RunError, match=r"x\.pkl: refused, it is no ordinary file"):
        read_pickle(tmp_path / "x.pkl")
    with pytest.raises(RunError, match="refused, it is no ordinary file"):
        read_pickle(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"sigma_data": float("nan")},
        {"sigma_data": -1},
        {"num_classes": 3},
        {"resolution": 32},
        {"precond": "x"},
        {"network": 5},
        {"network": {"model_type": "DhariwalUNet", "num_blocks": 10**9}},
        {"M": 10**9, "precond": "iDDPMPrecond"},
    ],
)
def test_settings_that_no_network_has_leave_nothing(
    reference: types.SimpleNamespace, tmp_path: Path, settings: dict[str, object]
) -> None:
    _write_network(reference, tmp_path / "network.pkl")
    with pytest.raises(RunError, match=r"network\.pkl"):
        importing.import_edmlx(tmp_path / "network.pkl", tmp_path / "run", settings, None, None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    _, state = _reference_vae_state()
    state["quant_conv_mu.conv.weight"] = torch.full((1, 1, 1, 1), value)
    torch.save(state, tmp_path / "vae.pth")
    with pytest.raises(RunError, match=r"quant_conv_mu\.conv\.weight' holds values that are not finite"):
        importing.read_edmlx(tmp_path / "vae.pth")


def test_a_run_is_written_whole_and_replaces_its_own_kind_only(
    reference: types.SimpleNamespace, tmp_path: Path
) -> None:
    _write_network(reference, tmp_path / "network.pkl")
    arguments = (tmp_path / "network.pkl", tmp_path / "run", None, None, None)
    importing.import_edmlx(*arguments)
    with pytest.raises(ExistsError, match="pass --overwrite"):
        importing.import_edmlx(*arguments)
    importing.import_edmlx(*arguments, overwrite=True)
    (tmp_path / "run" / "echosynth.json").write_text('{"made_by": "train"}')
    with pytest.raises(ExistsError, match="was made by 'echosynth train'"):
        importing.import_edmlx(*arguments, overwrite=True)
    with pytest.raises(ExistsError, match="is or holds the input"):
        importing.import_edmlx(arguments[0], tmp_path, None, None, None, overwrite=True)
    assert (tmp_path / "network.pkl").is_file()


def test_a_tensor_cannot_be_set_to_another_size(tmp_path: Path) -> None:
    class Resized:
        def __reduce__(self) -> tuple[object, ...]:
            return (
                torch._utils._rebuild_tensor_v2,
                (torch.ones(1).storage(), 0, (1,), (1,), False, OrderedDict()),
                (None, 0, (1 << 28,), (1,)),
            )

    torch.save({"w": Resized()}, tmp_path / "x.pth")
    with pytest.raises(RunError, match="refused, it sets the state of a Tensor"):
        read_pickle(tmp_path / "x.pth")


def test_one_storage_named_often_is_not_multiplied(tmp_path: Path) -> None:
    base = torch.zeros(1_000_000)
    torch.save([base[i:] for i in range(50)], tmp_path / "x.pth")
    with pytest.raises(RunError, match="would take many times the file's size"):
        read_pickle(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "state",
    [
        {"quant_conv_mu.conv.weight": torch.ones(1), "encoder.blocks.0.conv1.foo": torch.ones(3)},
        {"quant_conv_mu.conv.weight": torch.ones(1), "encoder.blocks.0.conv1.conv.weight": torch.zeros(16384, 0)},
        {"enc.16x16_conv.weight": torch.ones(4, 1, 3, 3), "dec.x.mlp_shared.0.weight": torch.ones(3)},
    ],
)
def test_parameters_of_nothing_known_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(RunError, match=r"x\.pth"):
        importing.read_edmlx(tmp_path / "x.pth", None, "EDMPrecond")


def test_a_storage_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(100)}, tmp_path / "good.pth")
    _rezip(tmp_path / "good.pth", tmp_path / "bad.pth", **{"0": b"\0" * 40})
    with pytest.raises(RunError, match="storage 0 holds 40 bytes, 400 were announced"):
        read_pickle(tmp_path / "bad.pth")
    torch.save({"w": torch.ones(100)}, tmp_path / "stream.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "stream.pth").read_bytes()
    at = data.rindex(struct.pack("<q", 100))
    (tmp_path / "stream.pth").write_bytes(data[:at] + struct.pack("<q", 1 << 40) + data[at + 8 :])
    with pytest.raises(RunError, match="holds 1099511627776 numbers, 100 were announced"):
        read_pickle(tmp_path / "stream.pth")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    storage = torch.zeros(4).untyped_storage()
    wide = _Calls(
        torch._utils._rebuild_tensor_v2,
        torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
        0,
        (1 << 20, 1 << 20),
        (0, 0),
        False,
        OrderedDict(),
    )
    torch.save({"w": wide}, tmp_path / "x.pth")
    with pytest.raises(RunError, match=r"a tensor of size .* in a storage of 4 numbers"):
        read_pickle(tmp_path / "x.pth")


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "good.pth")
    _rezip(tmp_path / "good.pth", tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 50_000
    with pytest.raises(RunError, match="is compressed, which torch never writes"):
        read_pickle(tmp_path / "bomb.pth")


def test_a_memo_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02]r" + struct.pack("<I", 0xFFFFFFF0) + b".")
    with pytest.raises(RunError, match="memo number 4294967280 is out of order"):
        read_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04 not a zip", b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f."]
)
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(RunError, match=r"x\.pkl: not a readable weights file"):
        read_pickle(tmp_path / "x.pkl")


def test_deep_nesting_ends_in_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(RunError, match="RecursionError"):
        read_pickle(tmp_path / "x.pkl")


def test_a_file_without_a_network_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(RunError, match="no network in it"):
        importing.import_edmlx(tmp_path / "x.pth", tmp_path / "run", None, None, None)
    assert not (tmp_path / "run").exists()
