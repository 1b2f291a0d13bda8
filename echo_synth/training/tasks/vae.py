"""What the engine needs to train a Γ-VAE on prepared arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from echo_synth.data.augment import ColourRanges, GeometricRanges, colour, draw_affine, draw_colour, geometric
from echo_synth.data.prepared import Prepared
from echo_synth.device import to_device
from echo_synth.specs import VaeLossWeights
from echo_synth.training.history import History
from echo_synth.training.streams import Stream, generator, sample_indices
from echo_synth.vae.gamma import Direction
from echo_synth.vae.loss import Perceptual, finishing_loss, reconstruct, vae_loss
from echo_synth.vae.network import GammaVAE

_PICTURES = 4
_FINISH_POSITION = 2_000_000_000  # samples of the last phase: positions that training never reaches


class VaeTask:
    """Batches, loss, validation and previews of a Γ-VAE.

    Args:
        data: prepared arrays.
        device: where the network is.
        seed: of the sample stream.
        weights: of the loss's terms.
        warmup_images: samples before the latent and perceptual terms count.
        geometric_ranges: of the random movements of training images.
        colour_ranges: of their random changes of grey levels.
        perceptual: in-sector distance of two image batches, (images, images, sector) to (N,), or None.
        direction: of the KL term.
    """

    def __init__(
        self,
        data: Prepared,
        device: str,
        seed: int,
        weights: VaeLossWeights,
        warmup_images: int,
        geometric_ranges: GeometricRanges,
        colour_ranges: ColourRanges,
        perceptual: Perceptual | None = None,
        direction: Direction = "prior-posterior",
    ) -> None:
        self.data, self.device, self.seed = data, device, seed
        self.weights, self.warmup_images, self.perceptual = weights, warmup_images, perceptual
        self.direction = direction
        self.geometric_ranges, self.colour_ranges = geometric_ranges, colour_ranges
        self.train_rows, self.val_rows = data.rows("train"), data.rows("val")

    def load(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (N, 1, H, W) float32 in [0, 1] and tissue maps (N, 1, H, W) float32 of prepared rows."""
        images = to_device(self.data.images[rows], self.device)
        tissues = to_device(self.data.tissues[rows], self.device)
        return images[:, None].float() / 255, tissues[:, None].float()

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Augmented images in [0, 1] and sectors, (N, 1, H, W), of the given stream positions."""
        rows = self.train_rows[sample_indices(self.seed, positions, len(self.train_rows))]
        images, tissues = self.load(rows)
        generators = [generator(self.seed, p, Stream.AUGMENTATION) for p in positions]
        matrices = torch.stack([draw_affine(g, self.geometric_ranges) for g in generators])
        colours = torch.stack([draw_colour(g, self.colour_ranges) for g in generators])
        images, tissues = geometric(images, tissues, matrices)
        sector = (tissues > 0).float()
        return colour(images, sector, colours), sector

    def loss(self, module: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        """Loss terms of one micro-batch."""
        assert isinstance(module, GammaVAE)
        images, sector = self.batch(positions)
        warm = torch.tensor([p >= self.warmup_images for p in positions], device=self.device)
        generators = [generator(self.seed, p, Stream.NOISE, self.device) for p in positions]
        return vae_loss(module, images, sector, self.weights, warm, generators, self.perceptual, self.direction)

    def finishing_loss(self, module: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        """Loss terms of one micro-batch of the decoder's last phase; its sample stream begins anew."""
        assert isinstance(module, GammaVAE)
        images, sector = self.batch([_FINISH_POSITION + p for p in positions])
        return finishing_loss(module, images, sector, self.weights, self.perceptual)

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Reconstruction of E[z] over (at most 100) validation images: mean squared error, MAE and PSNR in the sector."""
        rows = self._some_validation_rows(100)
        squared = absolute = 0.0
        for chunk in np.array_split(rows, max(1, len(rows) // 10)):
            images, tissues = self.load(chunk)
            sector = (tissues > 0).float()
            error = (reconstruct(module, images, sector).float() - images) * sector  # type: ignore[arg-type]
            squared += float(((error**2).sum((1, 2, 3)) / sector.sum((1, 2, 3))).sum())
            absolute += float((error.abs().sum((1, 2, 3)) / sector.sum((1, 2, 3))).sum())
        mse = squared / len(rows)
        return {"mse": mse, "mae": absolute / len(rows), "psnr_db": -10 * float(np.log10(mse))}

    def preview(self, module: nn.Module, history: History, images_seen: int) -> None:
        """Original, E[z] (the mean of its channels) and reconstruction of a few validation images."""
        images, tissues = self.load(self._some_validation_rows(_PICTURES))
        sector = (tissues > 0).float()
        latent = module.latent(images, sector)  # type: ignore[operator]
        enlarged = torch.nn.functional.interpolate(latent.mean(1, keepdim=True), size=images.shape[-2:], mode="nearest")
        grid = torch.cat([images, enlarged, reconstruct(module, images, sector).float()], dim=2)  # type: ignore[arg-type]
        picture = (torch.cat(list(grid[:, 0]), dim=1).clamp(0, 1) * 255).byte().cpu().numpy()
        history.image("reconstruction", picture, images_seen)

    def _some_validation_rows(self, count: int) -> np.ndarray:
        rows = self.val_rows if len(self.val_rows) else self.train_rows
        return rows[:: max(1, len(rows) // count)][:count]
