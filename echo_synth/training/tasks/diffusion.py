"""What the engine needs to train a diffusion model: clean fields (latents or pixels), maps, loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from echo_synth.device import to_device
from echo_synth.diffusion.denoiser import Denoiser, Guided
from echo_synth.diffusion.labels import TISSUES, semantic_classes, semantic_shares
from echo_synth.diffusion.loss import denoising_loss
from echo_synth.diffusion.map_reading import reading_loss
from echo_synth.files import write_png
from echo_synth.sampling import sample
from echo_synth.training.history import History
from echo_synth.training.streams import normal, sample_indices, spread, uniform
from echo_synth.vae.codec import Codec

_PICTURES, _PICTURE_NFE, _PICTURE_PX = 4, 19, 256
VAL_POSITION = 1_000_000_000  # noise of validation: positions that training never reaches


@dataclass(frozen=True)
class Fields:
    """Clean training data on the network's grid.

    Attributes:
        clean: (N, R, R) float16 or float32 in [−1, 1], −1 outside the sector; (N, C, R, R) of latents with C channels.
        tissues: (N, R, R) uint8, ids 0..4.
        frames: (N,) uint8, 0 to 3: view + 2 x phase.
        shares: (N, 5, R, R) uint8, tissues' shares of each cell in 255ths, for networks of soft maps.
    """

    clean: NDArray[np.floating]
    tissues: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    shares: NDArray[np.uint8] | None = None

    @property
    def channels(self) -> int:
        """C."""
        return 1 if self.clean.ndim == 3 else self.clean.shape[1]


class DiffusionTask:
    """Batches, loss, validation and sample pictures of a diffusion model.

    Args:
        train, val: clean fields.
        device: where the network is.
        seed: of the sample stream.
        codec: turns fields into the pictures of previews, or None to draw none.
        samples: folder for sample pictures, or None to draw none.
        classes: semantic classes of the network, see `diffusion.labels`.
        stratum: samples whose noise levels are spread evenly, see `streams.spread`; 0: each is drawn alone.

    Attributes:
        reader: reads tissues off denoised fields, see `map_reader`; None: no such loss.
        map_loss: its weight.
    """

    reader: nn.Module | None = None
    map_loss: float = 0.0

    def __init__(
        self,
        train: Fields,
        val: Fields,
        device: str,
        seed: int,
        codec: Codec | None = None,
        samples: Path | None = None,
        classes: int = 10,
        stratum: int = 0,
    ) -> None:
        self.train, self.val, self.device, self.seed, self.classes = train, val, device, seed, classes
        self.codec, self.samples, self.stratum = codec, samples, stratum

    @property
    def channels(self) -> int:
        """Of the fields."""
        return self.train.channels

    def load(self, fields: Fields, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor, Tensor]:
        """clean (N, C, R, R) float32, labels and sector (N, 1, R, R) float32 of some rows.

        Labels are classes (N, R, R), or shares of them (N, classes, R, R) float32 where the fields hold shares.
        """
        clean = to_device(fields.clean[rows], self.device).float()
        clean = clean.reshape(len(clean), fields.channels, *clean.shape[-2:])
        tissues = to_device(fields.tissues[rows], self.device)
        frames = to_device(fields.frames[rows], self.device)
        sector = (tissues > 0).float()[:, None]
        if fields.shares is None:
            return clean, semantic_classes(tissues, frames, self.classes), sector
        return clean, semantic_shares(self.tissues(fields, rows), frames, self.classes), sector

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """clean, labels and sector of `load`, unit normal noise like clean, and (N,) of (0, 1) that become noise levels."""
        clean, labels, sector = self.load(self.train, sample_indices(self.seed, positions, len(self.train.clean)))
        noise = to_device(normal(self.seed, positions, clean.shape[1:]), self.device)
        u = spread(self.seed, positions, self.stratum) if self.stratum else uniform(self.seed, positions)
        return clean, labels, sector, noise, to_device(u, self.device)

    def loss(self, module: nn.Module, positions: Sequence[int]) -> Mapping[str, Tensor]:
        """Mean denoising loss of one micro-batch, and what the reader says of the denoised fields."""
        clean, labels, sector, noise, u = self.batch(positions)
        loss, denoised, sigma = denoising_loss(module, clean, labels, sector, u, noise)  # type: ignore[arg-type]
        if self.reader is None:
            return {"loss": loss.mean()}
        rows = sample_indices(self.seed, positions, len(self.train.clean))
        read = self._reading(denoised, sigma, sector, self.train, rows)
        return {"loss": (loss + self.map_loss * read).mean(), "denoising": loss.mean(), "reading": read.mean()}

    def _reading(
        self, denoised: Tensor, sigma: Tensor, sector: Tensor, fields: Fields, rows: NDArray[np.intp]
    ) -> Tensor:
        """How badly the reader sees the maps of `rows` in fields denoised from noise of σ, (N,)."""
        assert self.reader is not None
        # A field denoised from much noise is the mean of many images: what cannot be read in it is not the network's fault.
        seen = torch.where(sector > 0, denoised, -1.0)
        return reading_loss(self.reader, seen, self.tissues(fields, rows), sector) / (1 + sigma**2)

    def tissues(self, fields: Fields, rows: NDArray[np.intp]) -> Tensor:
        """Shares of tissues in each cell of some rows, (N, 5, R, R) float32: of soft maps, or 1 for the one of hard ones."""
        if fields.shares is not None:
            return to_device(fields.shares[rows], self.device).float() / 255
        ids = to_device(fields.tissues[rows], self.device)
        return F.one_hot(ids.long(), TISSUES).permute(0, 3, 1, 2).float()

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """The same loss on validation cases at fixed noise and evenly spread noise levels."""
        count = min(128, len(self.val.clean))
        rows = np.linspace(0, len(self.val.clean) - 1, count).astype(np.intp)
        total, reading = 0.0, 0.0
        for chunk in np.array_split(np.arange(count), max(1, count // 16)):
            clean, labels, sector = self.load(self.val, rows[chunk])
            noise = normal(0, [VAL_POSITION + int(i) for i in chunk], clean.shape[1:]).to(self.device)
            # A golden-ratio sequence spreads σ evenly over each chunk and over the whole set.
            u = torch.as_tensor(((chunk + 0.5) * 0.6180339887) % 1, device=self.device)
            loss, denoised, sigma = denoising_loss(module, clean, labels, sector, u, noise)  # type: ignore[arg-type]
            total += float(loss.sum())
            if self.reader is not None:
                reading += float(self._reading(denoised, sigma, sector, self.val, rows[chunk]).sum())
        return {"loss": total / count} | ({"reading": reading / count} if self.reader is not None else {})

    def preview(self, module: nn.Module, history: History, images_seen: int) -> None:
        """Real images of fixed validation maps above samples of the same maps at fixed noise: RUN/samples, TensorBoard."""
        assert isinstance(module, Denoiser)
        if self.codec is None or self.samples is None:
            return
        rows = np.linspace(0, len(self.val.clean) - 1, min(_PICTURES, len(self.val.clean))).astype(np.intp)
        clean, labels, sector = self.load(self.val, rows)
        noise = normal(0, [VAL_POSITION + int(i) for i in rows], clean.shape[1:]).to(self.device)
        drawn = self._sample(module, noise, labels, sector)
        large = F.interpolate(sector, size=(_PICTURE_PX, _PICTURE_PX), mode="nearest")
        grid = torch.cat([self.codec.decode(clean, large), self.codec.decode(drawn.float(), large)], dim=2)
        pixels = (torch.cat(list(grid[:, 0]), dim=1) * 255).round().byte().cpu().numpy()
        history.image("samples", pixels, images_seen)
        self.samples.mkdir(exist_ok=True)
        write_png(self.samples / f"{images_seen:09d}.png", pixels)

    def _sample(self, denoiser: Denoiser, noise: Tensor, labels: Tensor, sector: Tensor) -> Tensor:
        """Fields (N, C, R, R) from `noise` of that shape, few steps of Heun."""
        guided = Guided(denoiser, denoiser.modulate(labels), sector > 0)
        precond = denoiser.precond
        known = (precond.sigma_min, precond.sigma_max)
        return sample(
            guided,
            noise,
            nfe=_PICTURE_NFE,
            solver="heun",
            discretization=precond.discretization,
            round_sigma=precond.round_sigma,
            net_sigmas=known,
        )
