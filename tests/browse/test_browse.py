"""The server of `browse`: the right pictures by name, and nothing else to nobody else."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from echo_synth.browse.cases import coloured, open_album
from echo_synth.browse.server import BrowseServer
from echo_synth.data import nnunet_raw
from echo_synth.data.nifti import read_pixels
from echo_synth.data.subject import Subject, heart
from echo_synth.data.tissue_colours import legend
from echo_synth.errors import DataError


@pytest.fixture
def server(home: Path) -> Iterator[BrowseServer]:
    with BrowseServer(open_album(nnunet_raw.find(501))) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def _get(server: BrowseServer, path: str, host: str | None = None) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    return response, response.read()


def test_cases_and_pictures_are_those_of_the_dataset(server: BrowseServer) -> None:
    dataset = nnunet_raw.find(501)
    cases = dataset.cases()
    rows = json.loads(_get(server, "/cases.json")[1])
    assert [row["case"] for row in rows] == list(cases["case"])
    assert rows[0] == {
        **cases.iloc[0][["case", "patient", "view", "phase", "split"]].to_dict(),
        "kind": "real",
        "flags": [],
    }
    for case, split in zip(cases["case"][::7], cases["split"][::7], strict=True):
        image = np.asarray(Image.open(io.BytesIO(_get(server, f"/image/{case}.png")[1])))
        labels = np.asarray(Image.open(io.BytesIO(_get(server, f"/labels/{case}.png")[1])))
        assert np.array_equal(image, read_pixels(dataset.image_path(case, split)))
        assert np.array_equal(labels[..., 3] > 0, read_pixels(dataset.label_path(case, split)) > 0)


def test_the_page_names_the_dataset_and_loads_nothing_from_elsewhere(server: BrowseServer) -> None:
    response, body = _get(server, "/")
    page = body.decode()
    assert "<h1>Dataset501_PHANTOM</h1>" in page
    assert "left atrium" in page
    assert "http" not in page
    assert "default-src 'none'" in str(response.getheader("Content-Security-Policy"))
    for name, kind in (("browse.js", "javascript"), ("browse.css", "css")):
        part, content = _get(server, f"/{name}")
        assert part.status == 200
        assert kind in str(part.getheader("Content-Type"))
        assert b"http" not in content


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../../../etc/passwd",
        "/image/..%2f..%2fdataset.json",
        "/image/%2fetc%2fpasswd.png",
        "/cases.csv",
        "/image/",
        "/labels",
        "//etc/passwd",
        "/image/patient0001_2CH_ED.png%00",
    ],
)
def test_other_addresses_are_none(server: BrowseServer, path: str) -> None:
    assert _get(server, path)[0].status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example:1"])
def test_pages_of_other_sites_cannot_ask(server: BrowseServer, host: str) -> None:
    response, body = _get(server, "/cases.json", host)
    assert response.status == 403
    assert b"patient" not in body


def test_a_damaged_picture_is_told_and_the_others_are_shown(own_home: Path) -> None:
    dataset = nnunet_raw.find(501)
    case = dataset.cases().iloc[0]
    dataset.image_path(case["case"], case["split"]).write_bytes(b"foreign")
    with BrowseServer(open_album(dataset)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        response, body = _get(server, f"/image/{case['case']}.png")
        assert response.status == 500
        assert case["case"].encode() in body
        assert _get(server, f"/labels/{case['case']}.png")[0].status == 200
        server.shutdown()


def test_flags_come_from_the_datasets_own_quality(home: Path, tmp_path: Path) -> None:
    dataset = nnunet_raw.find(501)
    names = list(dataset.cases()["case"][:3])
    table = pd.DataFrame({"case": names, "copy": [True, False, True], "low_agreement": [False, False, True]})
    table.to_csv(tmp_path / "quality.csv", index=False)
    flags = {row["case"]: row["flags"] for row in open_album(dataset, tmp_path).rows}
    assert [flags[name] for name in names] == [["near copy"], [], ["near copy", "low agreement"]]
    pd.DataFrame({"case": ["another"], "copy": [True]}).to_csv(tmp_path / "quality.csv", index=False)
    with pytest.raises(DataError, match="not in Dataset501_PHANTOM"):
        open_album(dataset, tmp_path)
    with pytest.raises(DataError, match=r"quality\.csv: missing"):
        open_album(dataset, tmp_path / "none")


def test_a_taken_port_is_told(server: BrowseServer) -> None:
    with pytest.raises(DataError, match=f"--port {server.server_port}: .*choose another"):
        BrowseServer(server.album, server.server_port)


def test_labels_have_the_reports_colours() -> None:
    drawn = coloured(np.array([[0, 1], [2, 3]]))
    assert drawn[0, 0].tolist() == [0, 0, 0, 0]
    assert drawn[0, 1, :3].tolist() == [214, 69, 65]
    assert len({tuple(colour) for colour in drawn.reshape(4, 4).tolist()}) == 4


def test_the_legend_has_the_names_of_the_dataset() -> None:
    head = Subject(
        title="head", views=("axial",), phases=("still",), labels={"brain": 1, "skull": 2}, structures={"brain": (1,)}
    )
    assert [entry.name for entry in legend(head)] == ["brain", "skull"]
    assert [entry.name for entry in legend(heart())] == ["LV endocardium", "LV myocardium", "left atrium"]
    assert legend(head)[0].colour == legend(heart())[0].colour == "#d64541"
