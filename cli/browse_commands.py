"""Command that shows a dataset in the browser: browse."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cli.common import done, say


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("browse")(browse)


def browse(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="nnU-Net raw dataset.")],
    quality: Annotated[Path | None, typer.Option(help="Result folder of quality; its flags become a filter.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the local server; 0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser too.")] = False,
) -> None:
    """Look through a dataset in the web browser: image, labels, overlay, filters, keyboard. On this machine only (127.0.0.1).

    Example: echosynth browse echosynth_home/nnunet/raw/Dataset601_EDM-L64_nfe20
    """
    import webbrowser

    from echo_synth.browse.cases import open_album
    from echo_synth.browse.server import BrowseServer
    from echo_synth.data.nnunet_raw import RawDataset
    from echo_synth.errors import DataError

    if not (folder / "cases.csv").is_file():
        raise DataError(
            f"{folder}: no cases.csv there; expected a raw dataset of convert-camus, generate or mix-datasets"
        )
    album = open_album(RawDataset(folder.absolute()), quality)
    with BrowseServer(album, port) as server:
        done(server.url)
        say(f"{len(album.rows)} cases of {album.dataset.name}; Ctrl-C ends it")
        if open_browser:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
