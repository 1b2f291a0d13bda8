"""A CAMUS-shaped dataset out of nothing: anatomy, B-mode physics, files."""

from echo_synth.phantom.dataset import write_phantom

__all__ = ["write_phantom"]
