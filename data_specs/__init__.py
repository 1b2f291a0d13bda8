"""Contracts as data: file layouts, label tables, patient splits, presets and the bundled weights.

Nothing here is code; `echo_synth.specs` loads and validates it.
"""
