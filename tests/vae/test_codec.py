"""Images to fields and back: ranges, sectors, and the closed forms of the pixel codec."""

from __future__ import annotations

import pytest
import torch

from echo_synth.runs.description import build_model
from echo_synth.runs.find import bundled_run
from echo_synth.vae.codec import LatentCodec, PixelCodec, build_codec
from echo_synth.vae.network import GammaVAE


def _disc(size: int = 256) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((y - size / 2) ** 2 + (x - size / 2) ** 2 < (0.4 * size) ** 2).float()[None, None]


def _codecs() -> list[PixelCodec | LatentCodec]:
    run = bundled_run("gamma-vae-64")
    assert run is not None
    vae = build_model(run.description)
    assert isinstance(vae, GammaVAE)
    return [build_codec(None, 64), build_codec(vae.eval(), 64)]


@pytest.mark.parametrize("index", [0, 1], ids=["pixels", "latents"])
def test_ranges_shapes_and_sectors(index: int) -> None:
    codec, sector = _codecs()[index], _disc()
    images = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(0)) * sector
    with torch.no_grad():
        fields = codec.encode(images, sector.expand_as(images))
        decoded = codec.decode(fields, sector.expand_as(images))
        again = codec.decode(fields, sector.expand_as(images) > 0)
    assert fields.shape == (2, 1, 64, 64)
    assert fields.dtype == decoded.dtype == torch.float32
    small = sector[..., 2::4, 2::4] > 0  # nearest-exact takes the third of each four
    assert (fields[~small.expand_as(fields)] == -1).all()
    assert (decoded[(sector == 0).expand_as(decoded)] == 0).all()
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert torch.equal(decoded, again)


def test_pixels_of_a_constant_image_come_back() -> None:
    sector = torch.ones(1, 1, 256, 256)
    codec = PixelCodec(64)
    fields = codec.encode(0.3 * sector, sector)
    assert torch.allclose(fields, torch.full_like(fields, 2 * 0.3 - 1))
    assert torch.allclose(codec.decode(fields, sector), 0.3 * sector, atol=1e-6)


def test_fields_beyond_the_range_are_clipped() -> None:
    sector = torch.ones(1, 1, 8, 8)
    decoded = PixelCodec(4).decode(torch.full((1, 1, 4, 4), 1.5), sector)
    assert torch.equal(decoded, sector)


def test_latents_compute_in_the_precision_of_the_weights() -> None:
    codec, sector = _codecs()[1], _disc()
    assert isinstance(codec, LatentCodec)
    torch.nn.init.constant_(
        list(codec.vae.decoder.parameters())[-1], 0.5
    )  # untrained, it may give less than 0 everywhere
    fields = codec.encode(sector, sector)
    plain = codec.decode(fields, sector)
    assert 0 < plain.max() < 1
    codec.vae.to(torch.bfloat16)
    rounded = codec.decode(fields, sector)
    assert rounded.dtype == torch.float32
    assert not torch.equal(plain, rounded)
