"""A server for one album and this machine alone: fixed addresses, cases by name, nothing is written.

A page of another site could ask the browser for 127.0.0.1, by its number or by a name of its own that leads there: requests
with another Host are refused, and no answer allows other origins to read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from echo_synth.browse.cases import Album
from echo_synth.data.subject import subject_of
from echo_synth.data.tissue_colours import legend
from echo_synth.errors import DataError

_PAGE = "page.html.j2"
_POLICY = "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'"
_ICON = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path d="M4 0 8 7H0z" fill="#4183d7"/></svg>'
ADDRESS = "127.0.0.1"


class BrowseServer(ThreadingHTTPServer):
    """Serves `album` on 127.0.0.1.

    Args:
        port: 0 for one that is free.

    Raises DataError when the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, album: Album, port: int = 0) -> None:
        self.album = album
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as e:
            raise DataError(f"--port {port}: {e.strerror}; choose another, or 0 for one that is free") from None

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: BrowseServer
    server_version, sys_version = "echosynth", ""

    def do_GET(self) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            self._answer(403, "text/plain; charset=utf-8", b"open the address that 'echosynth browse' printed\n")
            return
        try:
            kind, make = self._route(urlsplit(self.path).path)
            self._answer(200, kind, make())
        except KeyError:
            self._answer(404, "text/plain; charset=utf-8", b"no such case\n")
        except DataError as e:
            self._answer(500, "text/plain; charset=utf-8", str(e).encode("utf-8", "replace"))

    def _route(self, path: str) -> tuple[str, Callable[[], bytes]]:
        """Content type and maker of the answer. Raises KeyError for an address that is none."""
        album = self.server.album
        fixed: dict[str, tuple[str, Callable[[], bytes]]] = {
            "/": ("text/html; charset=utf-8", partial(_page, album)),
            "/browse.js": ("text/javascript; charset=utf-8", partial(_file, "browse.js")),
            "/browse.css": ("text/css; charset=utf-8", partial(_file, "browse.css")),
            "/favicon.ico": ("image/svg+xml", lambda: _ICON),
            "/cases.json": ("application/json", lambda: json.dumps(album.rows).encode()),
        }
        if path in fixed:
            return fixed[path]
        _, kind, name = ([*unquote(path).split("/", 2), "", ""])[:3]
        case = name.removesuffix(".png")
        if case not in album.places:
            raise KeyError(case)
        return "image/png", partial({"image": album.image, "labels": album.labels}[kind], case)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line a picture would bury what matters."""


def _page(album: Album) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(_PAGE).render(
        name=album.dataset.name, legend=legend(subject_of(album.dataset.path)), count=len(album.rows)
    )
    return page.encode("utf-8", "replace")


def _file(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
