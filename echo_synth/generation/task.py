"""A dataset to be drawn, as every process that draws a part of it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from echo_synth.estimate import Estimate
from echo_synth.generation import run
from echo_synth.generation.request import MapPlan
from echo_synth.generation.run import Drawn, ImageSource, Progress, Shown
from echo_synth.generation.shards import Shard
from echo_synth.generation.targets import Target, TargetRequest, check_ours
from echo_synth.generation.writer import DatasetWriter


@dataclass(frozen=True)
class Task:
    """What is drawn, from what, and where to; can be sent to another process.

    Attributes:
        source: makes what draws, in the process that draws.
        plan: which images from which maps.
        batch: images at once.
        request, target: the dataset that is asked for, and its folders.
        recorded, facts: see `run.generate`.
    """

    source: Callable[[], ImageSource]
    plan: MapPlan
    batch: int
    request: TargetRequest
    target: Target
    recorded: Mapping[str, Any]
    facts: Mapping[str, Any]

    def writer(self, shard: Shard) -> DatasetWriter:
        """Of the part that belongs to `shard`."""
        return DatasetWriter(self.target.raw, self.target.classification, self.plan.rows, shard, self.plan.maps.subject)

    def progress(self, shard: Shard) -> Progress:
        """How far the part that belongs to `shard` is."""
        return Progress.of(self.writer(shard), self.batch)

    def draw(
        self, shard: Shard, loaded: Callable[[ImageSource], None] = lambda _: None, shown: Shown | None = None
    ) -> Drawn:
        """Draw what belongs to `shard` in this process, which holds it alone meanwhile.

        Args:
            loaded: is called before the first image.
            shown: see `run.generate`.

        Raises HeldError when another process draws it.
        """
        writer = self.writer(shard)
        with writer.opened():
            check_ours(self.target, self.request)
            source = self.source()
            loaded(source)
            return run.generate(
                source, self.plan.maps, writer, self.plan.seed, self.batch, self.recorded, self.facts, shown
            )

    def expect(self, source: ImageSource, shard: Shard) -> Estimate:
        """What drawing `shard` takes in this process, from a moment's measurement; `source` is one of `source()`.

        Raises TypeError for a source without a network.
        """
        from echo_synth.generation.estimate import estimate_generation
        from echo_synth.generation.sources import SampledImages

        if not isinstance(source, SampledImages):
            raise TypeError(f"{type(source).__name__}: only what a network draws is measured")
        rows = self.plan.rows
        mine = [rows.iloc[chunk] for chunk in run.chunks_of(len(rows), self.batch, shard)]
        return estimate_generation(
            source.generator, source.settings, self.plan.maps, pd.concat([rows.iloc[:0], *mine]), self.batch
        )
