"""Colours of curves and points: three, safe for colour-blind readers. Those of tissues are in `data.tissue_colours`."""

from __future__ import annotations

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
