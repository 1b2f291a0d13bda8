"""Patterns of file names: what fits, what is refused, and that none takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_synth.data.name_pattern import NamePattern, find_files, match_name
from echo_synth.errors import DataError

CHOICES = {"view": ["A", "AB", "two_words"], "phase": ["ED"]}


@pytest.mark.parametrize(
    ("pattern", "text", "values"),
    [
        ("{patient}.png", "p_1.png", {"patient": "p_1"}),
        ("{patient}_{view}.png", "p_1_AB.png", {"patient": "p_1", "view": "AB"}),
        ("{patient}_{view}.png", "p_1_two_words.png", {"patient": "p_1", "view": "two_words"}),
        ("{patient}_{image}.png", "p_1_2.png", {"patient": "p", "image": "1_2"}),  # as few letters as fit
        ("{patient}_*HC.png", "010_2HC.png", {"patient": "010"}),
        ("{patient}_*HC.png", "010_HC.png", {"patient": "010"}),
        ("*.png", "anything at all.png", {}),
        ("{patient}_{view}.png", "p_1_C.png", None),
        ("{patient}.png", "p.jpg", None),
        ("{patient}.png", ".hidden.png", None),
        ("{patient}.png", "größe.png", None),
        ("x[0-9]+.png", "x1.png", None),  # not a regular expression
        ("x[0-9]+.png", "x[0-9]+.png", {}),
    ],
)
def test_what_fits(pattern: str, text: str, values: dict[str, str] | None) -> None:
    assert match_name(pattern, text, {}, CHOICES) == values


def test_what_fits_gives_the_name_again() -> None:
    pattern = NamePattern.parse("{patient}_x_{image}_{view}.png")
    text = "a_1_x_b_AB.png"
    values = match_name(pattern.text, text, {}, CHOICES)
    assert values is not None
    assert pattern.fill(values) == text
    assert pattern.places == {"patient", "image", "view"}


def test_a_place_of_a_folder_is_the_same_in_the_file(tmp_path: Path) -> None:
    for name in ("p1/p1_A.png", "p1/p2_A.png", "p2/p2_AB.png", "p2/deeper/p2_A.png", ".p3/.p3_A.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(find_files(tmp_path, NamePattern.parse("{patient}/{patient}_{view}.png"), CHOICES))
    assert [str(f.path.relative_to(tmp_path)) for f in found] == ["p1/p1_A.png", "p2/p2_AB.png"]
    assert [f.values["view"] for f in found] == ["A", "AB"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/etc/{patient}.png",
        "../{patient}.png",
        "a/../{patient}.png",
        "a//b.png",
        "~/x.png",
        "a\\b.png",
        "C:x.png",
        "{patien}.png",
        "{}.png",
        "{patient",
        "patient}.png",
        "{{patient}}.png",
        "{patient}{patient}.png",
        "*" * 21,
        "x" * 301,
        "a\n{patient}.png",
        "{patient.__class__}.png",
        "{0}.png",
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no place|twice"):
        NamePattern.parse(text)


def test_a_pattern_that_would_make_a_regular_expression_hang() -> None:
    """As one, {patient} * {image} * * * on a name that fits nowhere has 255 to the power of 7 ways."""
    pattern = "{patient}-*-{image}-*-*-*-*-*-!"
    NamePattern.parse(pattern)
    text = "a" + "-a" * 127
    assert match_name(pattern, text, {}, CHOICES) is None
    assert match_name(pattern.replace("!", ""), text[:-1], {}, CHOICES) is not None
    assert match_name(pattern.replace("!", ""), text * 2, {}, CHOICES) is None  # no name is as long


@pytest.mark.parametrize(("kind", "says"), [("link", "a link to nothing"), ("folder", "not a regular file")])
def test_what_fits_and_is_no_file_is_named(kind: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    if kind == "link":
        (tmp_path / "b.png").symlink_to("../.git/annex/objects/none")
    else:
        (tmp_path / "b.png").mkdir()
    (tmp_path / "c").symlink_to("nothing")
    with pytest.raises(DataError, match=f"b.png: is {says}, expected an image"):
        list(find_files(tmp_path, NamePattern("{patient}.png"), CHOICES))
