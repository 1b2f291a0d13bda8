"""One colour code for tissues: label maps, previews, outlines, overlays and legends agree; pictures are cut into panels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from echo_synth import specs
from echo_synth.browse.cases import coloured
from echo_synth.data.maps import write_map
from echo_synth.data.subject import heart
from echo_synth.data.tissue_colours import legend, tissue_colour, tissue_colours, tissue_image
from echo_synth.generation.run import save_preview
from echo_synth.report import evaluation_figures, figures
from echo_synth.report.page import build
from echo_synth.report.panels import PANELS, cut, cut_preview

STATED = [tuple(t.colour) for t in specs.labels().tissues.values()]  # data_specs/labels.yaml


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _hex(colour: tuple[int, ...]) -> str:
    return "#" + bytes(colour).hex()


def test_every_picture_of_tissues_has_the_same_colours(tmp_path: Path) -> None:
    tissues = np.repeat(np.arange(5, dtype=np.uint8), 64)[None, :256].repeat(256, 0)  # stripes of 64: ids 0 to 3
    write_map(tmp_path / "map.png", tissues)
    save_preview(tmp_path / "preview.png", [(np.zeros((256, 256), np.uint8), tissues)])
    in_map = np.asarray(Image.open(tmp_path / "map.png").convert("RGB"))[0, ::64]
    in_preview = np.asarray(Image.open(tmp_path / "preview.png"))[200, :128:32]
    overlay = coloured(np.arange(4)[None])[0, 1:, :3]  # clear where there is no label
    assert [tuple(c) for c in in_map] == [tuple(c) for c in in_preview] == STATED[:4]
    assert [tuple(c) for c in overlay] == STATED[1:4]
    assert [tuple(c) for c in tissue_colours()] == [tuple(c) for c in tissue_image(np.arange(5))] == STATED
    assert [key.colour for key in legend(heart())] == [_hex(c) for c in STATED[1:4]]
    assert {tissue: tissue_colour(tissue) for _, tissue, _ in evaluation_figures.HEART_OUTLINES} == {
        tissue: _hex(STATED[tissue]) for tissue in (1, 2, 3)
    }


def test_outlines_are_drawn_in_the_colours_of_their_legend() -> None:
    """Predicted solid, in the tissue's colour; a panel for each case, found again by its size."""
    labels = np.zeros((64, 64), np.uint8)
    labels[16:48, 16:48] = 3
    case = evaluation_figures.Overlay("a", np.zeros((64, 64)), labels, np.zeros_like(labels))
    png = figures.png(evaluation_figures.worst_cases([case] * 3, 2), panels=(2, 2))
    panels = [_pixels(panel) for panel in cut(png)]
    assert len(panels) == 4  # the last one is white: nothing was to be shown
    assert len({panel.shape for panel in panels}) == 1
    counts = [int((panel == STATED[3]).all(-1).sum()) for panel in panels]
    assert counts[0] == counts[1] == counts[2] > 300
    assert counts[3] == 0


def _png(width: int, height: int, stated: str | None = None) -> bytes:
    buffer, info = io.BytesIO(), PngInfo()
    if stated is not None:
        info.add_text(PANELS, stated)
    pixels = np.arange(width * height, dtype=np.uint32).reshape(height, width) % 251 + 1
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def test_panels_put_together_are_the_picture() -> None:
    png = _png(60, 40, "3x2")
    panels = [_pixels(panel) for panel in cut(png)]
    rows = [np.concatenate(panels[i : i + 3], axis=1) for i in (0, 3)]
    assert np.array_equal(np.concatenate(rows), _pixels(png))


@pytest.mark.parametrize(
    "png",
    [
        *(_png(60, 40, stated) for stated in (None, "", "x", "1x1", "0x5", "-2x-2", "9999x9999", "1e3x2", "2" * 5000)),
        *(b"", b"\x89PNG\r\n\x1a\n", _png(60, 40, "3x2")[:120]),
    ],
)
def test_what_cannot_be_cut_stays_whole(png: bytes) -> None:
    assert cut(png) == []
    assert cut_preview(png) == []


def test_a_datasets_preview_is_shown_in_panels_that_say_they_are_drawn(tmp_path: Path) -> None:
    pair = (np.full((256, 256), 9, np.uint8), np.ones((256, 256), np.uint8))
    save_preview(tmp_path / "preview.png", [pair] * 3)  # of eight places five are black
    page = build(tmp_path)
    assert page.count('alt="Drawn image above its label map: panel ') == 3
    assert "Drawn, not real: " in page
    assert 'fill="#d64541"/></svg> LV endocardium' in page
