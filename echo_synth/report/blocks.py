"""What a section of the page is made of; `page.html.j2` draws each by its class."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from echo_synth.data.tissue_colours import Key
from echo_synth.report.cells import Rows


@dataclass(frozen=True)
class Table:
    """Rows, the first of them the header; `of` tells regions of one caption apart."""

    rows: Rows
    caption: str
    of: str = ""
    kind: str = "table"

    @property
    def label(self) -> str:
        """Name of the scrolling region."""
        return f"{self.caption}, {self.of}" if self.of else self.caption


@dataclass(frozen=True)
class Note:
    """A sentence that says how to read what stands above it."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Picture:
    """A PNG with its alternative text and caption; a wide one is scrolled where there is no room."""

    png: bytes
    alt: str
    caption: str
    wide: bool = False
    kind: str = "picture"

    @property
    def source(self) -> str:
        """The PNG as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room."""

    pictures: Sequence[Picture]
    kind: str = "gallery"


@dataclass(frozen=True)
class Panels:
    """Parts of one picture, as many side by side as there is room for, one a row on a phone.

    Attributes:
        size: of the parts: "large", or "small" where they have few pixels.
    """

    pictures: Sequence[Picture]
    caption: str
    size: str = "large"
    kind: str = "panels"


@dataclass(frozen=True)
class Legend:
    """The colours of tissues."""

    keys: Sequence[Key]
    kind: str = "legend"


@dataclass(frozen=True)
class Facts:
    """A few sentences under a small heading, each with what it is about."""

    title: str
    lines: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Settings:
    """Resolved settings, folded away."""

    values: Mapping[str, Any]
    kind: str = "settings"


Block = Table | Note | Picture | Gallery | Panels | Legend | Facts | Settings


@dataclass(frozen=True)
class PageSection:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def keep_together(text: str) -> str:
    """`text` with no-break spaces, so that lines break between mean, interval and p-value, not inside any of them."""
    inside = re.sub(r"(\[[^\]]*), ", "\\1,\u00a0", text).replace(" ± ", "\u00a0±\u00a0")
    return re.sub(r", p (< )?(?=\d)", lambda match: ", " + match[0][2:].replace(" ", "\u00a0"), inside)
