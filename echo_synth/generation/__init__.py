"""Synthetic datasets: drawn from maps, streamed to disk, resumable. Handed models, never configurations."""
