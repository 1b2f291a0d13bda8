"""Bridges to other people's files."""

from echo_synth.compat import edmlx

__all__ = ["edmlx"]
