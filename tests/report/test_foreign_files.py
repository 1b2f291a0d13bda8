"""The page of a folder that holds damaged files, files of other programs, and names that are no text."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cli.report_commands import report
from echo_synth.errors import DataError, ExistsError
from echo_synth.files import write_json
from echo_synth.report import tables
from echo_synth.report.page import build
from tests.report.tables import QUALITY, sweep_table

MARKUP = "<script>alert(1)</script>\"'&"
ESTIMATE = {"mean": 0.9, "std": 0.01, "ci95": [0.8, 0.95], "n_images": 40, "n_patients": 12}
STRUCTURE = dict.fromkeys(("dice", "hd_mm", "hd95_mm", "assd_mm", "hd_px"), ESTIMATE) | {"empty_predictions": 0}
HISTORY = b"images,split,name,value\n"
FOREIGN = {
    "metrics.json": (
        b"[]",
        b'{"classification": 5}',
        b'{"accuracy": 0.9}',
        b'{"segmentation": {"a": {"dice": 1}}}',
        b"[" * 99999,
    ),
    "quality.json": (
        *(b'{"dataset": 1}', b"[]", b"null", b'{"dataset": NaN}'),
        json.dumps(QUALITY | {"diversity": {"network": "x", "synthetic": {"std": 1}, "real": {"mean": 1}}}).encode(),
    ),
    "history.csv": (
        b"epoch,loss\n1,2\n",
        b"\xff\xfe\nx\n",
        HISTORY + b"1,train,loss,x\n",
        HISTORY + b"1,2\n1,2,3,4,5\n",
    ),
    "results.csv": (b"cell,a\n1,2\n", b"", b"\xff\xfe", b"cell,state,count\nx,done,-4\n", b"a\0b"),
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, contents in FOREIGN.items() for c in contents])
def test_a_foreign_file_is_named_and_keeps_nothing_else_away(tmp_path: Path, name: str, content: bytes) -> None:
    sweep_table().to_csv(tmp_path / "results.csv", index=False)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_bytes(content)
    page = build(tmp_path)
    assert "Experiment: " in page
    assert f"x/{name}: " in page.partition("Left out")[2]


def test_a_page_of_foreign_files_alone_is_written_and_said_to_be(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "metrics.json").write_text('{"volumes": null}')
    with pytest.raises(DataError, match="no file in it can be shown"):
        report(tmp_path)
    assert "metrics.json: has none of the parts" in (tmp_path / "report.html").read_text()


def test_a_training_that_has_just_begun_is_nothing_to_complain_of(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("images,step,split,name,value\n")
    assert "Left out" not in build(tmp_path)


def test_texts_of_files_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    write_json(tmp_path / "a/metrics.json", {"segmentation": {MARKUP: STRUCTURE}, "settings": {MARKUP: MARKUP}})
    (tmp_path / "results.csv").write_text(f'cell,state,count\n"<img src=x onerror={1}>",done,1\n')
    page = build(tmp_path)
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page


def test_names_and_texts_that_are_no_utf8_are_shown_as_far_as_they_can(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "metrics.json").write_text(
        json.dumps({"segmentation": {"lv_endo": STRUCTURE}, "settings": {"a": "\ud800"}})
    )
    (folder / "history.csv").write_text("images,split,name,value\n1,train,loss,0.5\n")
    build(tmp_path).encode("utf-8")
    report(tmp_path)
    assert "Evaluation: caf?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_pictures_of_an_earlier_evaluation_are_not_shown_beside_new_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"segmentation": {"lv_endo": STRUCTURE}})
    for name in ("scores.png", "classification.png", "bland_altman.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    page = build(tmp_path)
    assert "Box plots of Dice" in page
    assert "Confusion matrix" not in page
    assert "Bland-Altman" not in page


def test_the_own_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    for _ in range(2):
        report(tmp_path)
    results = tmp_path / "metrics.json"
    write_json(results, {})
    for overwrite in (False, True):
        with pytest.raises(ExistsError):
            report(tmp_path, out=results, overwrite=overwrite)
    other = tmp_path / "mine.html"
    other.write_text("<!doctype html><p>mine</p>")
    with pytest.raises(ExistsError, match="pass --overwrite"):
        report(tmp_path, out=other)
    report(tmp_path, out=other, overwrite=True)
    assert "EchoSynth report" in other.read_text()
    pipe, folder, link = tmp_path / "pipe.html", tmp_path / "folder", tmp_path / "link.html"
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to(other)
    for target in (pipe, folder, link):
        with pytest.raises(ExistsError, match="never replaced"):
            report(tmp_path, out=target, overwrite=True)
    with pytest.raises(DataError, match="is a file"):
        report(tmp_path, out=other / "page.html")
    assert results.read_text() == "{}\n"


def test_an_interval_needs_patients() -> None:
    assert tables.cell(ESTIMATE, 3) == "0.900 [0.800, 0.950]"
    assert tables.cell(ESTIMATE | {"n_patients": 1}, 3) == "0.900"
    assert tables.cell({}, 3) == tables.cell(None, 3) == "–"
    few = {"lv_endo": {**STRUCTURE, "dice": ESTIMATE | {"n_patients": 4}}}
    [section] = [s for s in tables.sections({"groups": {"view": {"2CH": few}}}) if s.title.startswith("By ")]
    assert section.rows[1][:3] == ["view 2CH", "40", "4 (few)"]
