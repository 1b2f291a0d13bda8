"""Where data come from, and on what terms they may be used: data_specs/sources.yaml."""

from __future__ import annotations

from functools import cache

from echo_synth import specs
from echo_synth.specs import Strict

UNKNOWN, SIMULATED, CAMUS, OTHER = "unknown", "simulated", "camus", "other"


class Source(Strict):
    """Where data come from: names, licence and terms in words; address and citation may be empty."""

    title: str
    licence: str
    address: str
    citation: str
    terms: str


@cache
def sources() -> dict[str, Source]:
    """Known origins by their short names, from data_specs/sources.yaml."""
    return specs.load("sources.yaml", dict[str, Source])
