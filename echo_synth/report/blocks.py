"""What a section of the page is made of; `page.html.j2` draws each by its class."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    """A PNG with its alternative text and caption."""

    png: bytes
    alt: str
    caption: str
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
class Settings:
    """Resolved settings, folded away."""

    values: Mapping[str, Any]
    kind: str = "settings"


Block = Table | Note | Picture | Gallery | Settings


@dataclass(frozen=True)
class PageSection:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def keep_together(text: str) -> str:
    """`text` with no-break spaces, so that lines break between mean, interval and p-value, not inside any of them."""
    inside = re.sub(r"(\[[^\]]*), ", "\\1,\u00a0", text).replace(" ± ", "\u00a0±\u00a0")
    return re.sub(r", p (< )?(?=\d)", lambda match: ", " + match[0][2:].replace(" ", "\u00a0"), inside)
