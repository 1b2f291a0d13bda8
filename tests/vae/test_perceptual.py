"""Perceptual distances: against the lpips package, inside the sector, and never without their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from echo_synth.errors import RunError
from echo_synth.training.perceptual_networks import build_perceptual
from echo_synth.vae.perceptual import FeatureDistance


@pytest.fixture(scope="module")
def efflite0() -> FeatureDistance:
    distance = build_perceptual("efflite0", None)
    assert distance is not None
    return distance


def _pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    sector = torch.zeros(2, 1, 96, 96)
    sector[..., 16:80, 16:80] = 1
    images = torch.rand(2, 1, 96, 96, generator=g) * sector
    return images, F.avg_pool2d(images, 3, 1, 1) * sector, sector


def test_equal_images_have_no_distance_and_blur_has(efflite0: FeatureDistance) -> None:
    images, blurred, sector = _pair()
    assert (efflite0(images, images, sector) == 0).all()
    assert (efflite0(images, blurred, sector) > efflite0(images, 0.98 * images, sector)).all()


def test_the_distance_pulls_on_the_first_batch_only(efflite0: FeatureDistance) -> None:
    images, blurred, sector = _pair()
    images.requires_grad_()
    blurred.requires_grad_()
    efflite0(blurred, images, sector).sum().backward()
    assert blurred.grad is not None
    assert blurred.grad.abs().sum() > 0
    assert images.grad is None
    assert all(p.grad is None for p in efflite0.parameters())


def test_an_image_does_not_depend_on_its_neighbours(efflite0: FeatureDistance) -> None:
    images, blurred, sector = _pair()
    efflite0.train()
    alone = efflite0(images[:1], blurred[:1], sector[:1])
    assert torch.allclose(efflite0(images, blurred, sector)[:1], alone, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "architecture"), [("lpips-alex", "alexnet"), ("lpips-vgg", "vgg16")])
def test_it_is_the_distance_of_the_lpips_package(kind: str, architecture: str, tmp_path: Path) -> None:
    import lpips
    import torchvision

    torch.manual_seed(0)
    backbone = getattr(torchvision.models, architecture)(weights=None).eval()
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    theirs = lpips.LPIPS(net=kind.removeprefix("lpips-"), pnet_rand=True, verbose=False).eval()
    own = dict(theirs.net.named_parameters())
    for (_, target), source in zip(
        sorted(own.items(), key=lambda kv: int(kv[0].split(".")[1])), backbone.features.parameters(), strict=True
    ):
        target.data.copy_(source.data)
    ours = build_perceptual(kind, tmp_path / "w.pth")
    assert ours is not None
    images, blurred, _ = _pair()
    with torch.no_grad():
        expected = theirs(images.expand(-1, 3, -1, -1), blurred.expand(-1, 3, -1, -1), normalize=True).flatten()
        distances = ours(images, blurred, torch.ones_like(images))
    assert torch.allclose(distances, expected, rtol=1e-3)
    assert distances[0] > 0


def test_radimagenet_takes_numbered_layers(tmp_path: Path) -> None:
    import torchvision
    from torch import nn

    resnet = torchvision.models.resnet50(weights=None)
    numbered = nn.Sequential(*list(resnet.children())[:9]).state_dict()
    torch.save({f"backbone.{k}": v for k, v in numbered.items()}, tmp_path / "w.pt")
    distance = build_perceptual("radimagenet", tmp_path / "w.pt")
    assert distance is not None
    loaded = distance.state_dict()["features.layers.layer3.5.conv2.weight"]
    assert torch.equal(loaded, resnet.state_dict()["layer3.5.conv2.weight"])


@pytest.mark.slow
def test_nothing_is_downloaded_and_nothing_falls_back(tmp_path: Path) -> None:
    for kind in ("lpips-vgg", "lpips-alex", "radimagenet"):
        with pytest.raises(RunError, match=f"--perceptual {kind}: pass --perceptual-weights with"):
            build_perceptual(kind, None)
    with pytest.raises(RunError, match="no such file"):
        build_perceptual("lpips-vgg", tmp_path / "absent.pth")
    with pytest.raises(RunError, match="expected lpips-vgg, lpips-alex, radimagenet, efflite0 or none"):
        build_perceptual("vgg", None)
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(RunError, match="do not fit"):
        build_perceptual("lpips-vgg", tmp_path / "w.pth")
    assert build_perceptual("none", None) is None


@pytest.mark.slow
def test_a_weights_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    import os

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"features.0.weight": Hostile()}, tmp_path / "w.pth")
    with pytest.raises(RunError, match=r"--perceptual-weights .*w\.pth: refused, it asks for posix\.system"):
        build_perceptual("lpips-vgg", tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()
