"""Synthetic datasets: drawn from maps, streamed to disk, resumable. Handed models and settings of the sampler, never presets."""
