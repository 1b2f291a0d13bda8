"""A dataset that is not CAMUS, as its owner describes it in a YAML file; docs/other-datasets.md lists the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag, field_validator

from echo_synth.data.name_pattern import NamePattern
from echo_synth.data.subject import MOST_LABELS, MOST_PHASES, MOST_VIEWS, STILL, Label, Name, Subject, heart
from echo_synth.errors import SpecError
from echo_synth.specs import Strict, validate
from echo_synth.yaml_file import Lines, read_yaml_lines

ENDINGS = (".png", ".nii.gz", ".nii", ".mhd", ".mha")
_FILE = "file"
_ONE_PHASE: dict[str, tuple[str, ...]] = {STILL: (STILL,)}


def _pattern(value: object) -> object:
    return NamePattern.parse(value) if isinstance(value, str) else value


def _texts(value: object) -> object:
    """Views or phases with the texts that stand for them in file names: [a, b], {a: x} and {a: [x, y]} alike."""
    if isinstance(value, (list, tuple)):
        names = [v if isinstance(v, str) else repr(v) for v in value]
        if len(set(names)) < len(names):
            raise ValueError(f"{sorted(n for n in names if names.count(n) > 1)[0]:.40} is there twice")
        return {n: (n,) for n in names}
    if isinstance(value, dict):
        return {n: (t,) if isinstance(t, str) else t for n, t in value.items()}
    return value


Pattern = Annotated[NamePattern, BeforeValidator(_pattern), PlainSerializer(lambda p: p.text)]
_Text = Annotated[str, Field(pattern=r"^[^/\\{}*]{1,60}$")]
_Texts = dict[Name, Annotated[tuple[_Text, ...], Field(min_length=1, max_length=100)]]
_Value = Annotated[int, Field(strict=True, ge=0, le=255)]
_Values = Annotated[tuple[_Value, ...], Field(min_length=1, max_length=256)]
_Mm = Annotated[float, Field(ge=1e-3, le=100)]
_Share = Annotated[float, Field(ge=0, lt=1)]


class LabelValues(Strict):
    """One label: its values in the mask files, and which of the networks' tissues it is (default: in the order of the list)."""

    values: _Values
    tissue: Annotated[int, Field(strict=True, ge=1, le=MOST_LABELS)] | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value


class SplitLists(Strict):
    """Files with a patient a line, relative to the spec."""

    train: str
    val: str | None = None
    test: str | None = None

    @field_validator("train", "val", "test")
    @classmethod
    def _inside(cls, value: str | None) -> str | None:
        if value is not None:
            path = PurePosixPath(value)
            if not value or path.is_absolute() or "\\" in value or ":" in value or {"..", "~"} & set(path.parts):
                raise ValueError("expected a file in the folder of the spec or below, without '..'")
        return value


class SplitShares(Strict):
    """Parts of the patients, drawn by a seed; what is left trains."""

    seed: Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
    val: _Share = 0.1
    test: _Share = 0.2


def _kind_of_split(value: object) -> str:
    given = value.keys() if isinstance(value, dict) else vars(value)
    return "lists" if "train" in given else "shares"


Split = Annotated[
    Annotated[SplitLists, Tag("lists")] | Annotated[SplitShares, Tag("shares")], Discriminator(_kind_of_split)
]


class DatasetSpec(Strict):
    """What `echosynth convert` must know of a dataset.

    Attributes:
        images, masks: patterns of paths below the dataset's folder.
        views, phases: one or two names, each with the texts that stand for it in file names.
        labels: one to three, by name.
        background: values of masks that are no label.
        structures: unions of labels that are judged; default: each label.
        spacing: mm a pixel, (row, column); None, "file" in YAML, where NIfTI or .mhd files state it.
        sector: "frame", or "found" as in CAMUS's images.
    """

    title: Annotated[str, Field(min_length=1, max_length=200)]
    licence: Annotated[str, Field(min_length=1, max_length=200)] = "unknown"
    images: Pattern
    masks: Pattern
    views: Annotated[_Texts, BeforeValidator(_texts), Field(min_length=1, max_length=MOST_VIEWS)]
    phases: Annotated[_Texts, BeforeValidator(_texts), Field(min_length=1, max_length=MOST_PHASES)] = Field(
        default_factory=lambda: dict(_ONE_PHASE)
    )
    labels: Annotated[dict[Label, LabelValues], Field(min_length=1, max_length=MOST_LABELS)]
    background: _Values = (0,)
    structures: Annotated[dict[Label, tuple[Label, ...]], Field(min_length=1, max_length=8)] | None = None
    spacing: tuple[_Mm, _Mm] | None
    sector: Literal["frame", "found"]
    split: Split

    @field_validator("labels", mode="before")
    @classmethod
    def _plain_values(cls, value: object) -> object:
        """skull: 255 and skull: [1, 2] beside skull: {values: …}."""
        if not isinstance(value, dict):
            return value
        return {name: v if isinstance(v, dict) else {"values": v} for name, v in value.items()}

    @field_validator("background", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("spacing", mode="before")
    @classmethod
    def _same_both_ways(cls, value: object) -> object:
        if value == _FILE:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return (value, value)
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected mm a pixel, [mm down, mm across], or 'file'")
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _is_split(cls, value: object) -> object:
        if not isinstance(value, (dict, SplitLists, SplitShares)):
            raise ValueError("expected {seed: 0, val: 0.1, test: 0.2}, or {train: FILE, val: FILE, test: FILE}")
        return value

    def tissues(self) -> dict[str, int]:
        """Tissue id, which is nnU-Net's label, of each label by name."""
        return {name: label.tissue or position for position, (name, label) in enumerate(self.labels.items(), 1)}

    def subject(self) -> Subject:
        """What the rest of the chain knows of the dataset; CAMUS's heart where names and labels are CAMUS's."""
        tissues, known = self.tissues(), heart()
        views, phases = tuple(self.views), tuple(self.phases)
        if self.structures is None and (views, phases, tissues) == (known.views, known.phases, known.labels):
            return known
        named = self.structures or {name: (name,) for name in self.labels}
        structures = {name: tuple(sorted(tissues[label] for label in labels)) for name, labels in named.items()}
        return Subject(title=self.title, views=views, phases=phases, labels=tissues, structures=structures)


@dataclass(frozen=True)
class SpecFile:
    """A spec with the place where it stands, for errors that show up later."""

    path: Path
    spec: DatasetSpec
    lines: Lines

    def at(self, *key: str) -> str:
        """'my.yaml, line 4: images', the beginning of an error about that key."""
        return f"{self.path}, line {self.lines.find(key)}: {'.'.join(key)}"

    def error(self, key: Sequence[str], message: str) -> SpecError:
        """An error about a key."""
        return SpecError(f"{self.at(*key)}: {message}")


def read_dataset_spec(path: Path) -> SpecFile:
    """A spec from its YAML file.

    Raises SpecError, with line and key, for what is not a spec, or whose keys contradict each other.
    """
    data, lines = read_yaml_lines(path)
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected keys such as title, images, masks and labels; see docs/other-datasets.md")
    file = SpecFile(path, validate(DatasetSpec, data, str(path), lines), lines)
    _check_patterns(file)
    _check_labels(file)
    return file


def _check_patterns(file: SpecFile) -> None:
    spec = file.spec
    for key in ("images", "masks"):
        pattern: NamePattern = getattr(spec, key)
        if not pattern.text.endswith(ENDINGS):
            raise file.error([key], f"'{pattern.text}' ends otherwise than {', '.join(ENDINGS)}, which can be read")
    if "patient" not in spec.images.places:
        raise file.error(
            ["images"], f"'{spec.images.text}' has no {{patient}}, by which images are kept apart in the split"
        )
    for place, names in (("view", spec.views), ("phase", spec.phases)):
        if len(names) > 1 and place not in spec.images.places:
            raise file.error(["images"], f"has no {{{place}}}, but there are several {place}s: {', '.join(names)}")
        texts = [t for known in names.values() for t in known]
        if len(set(texts)) < len(texts):
            raise file.error([f"{place}s"], f"'{next(t for t in texts if texts.count(t) > 1)}' stands for two of them")
    unknown = spec.masks.places - spec.images.places
    if unknown or "*" in spec.masks.places:
        lacking = "*" if "*" in spec.masks.places else f"{{{min(unknown)}}}"
        raise file.error(["masks"], f"has {lacking}, whose text the image's name does not tell; use places of 'images'")
    if spec.masks.text == spec.images.text:
        raise file.error(["masks"], "is the pattern of the images too; expected another file beside each image")
    if spec.spacing is None and any(p.text.endswith(".png") for p in (spec.images, spec.masks)):
        raise file.error(["spacing"], "PNG files state none; give mm a pixel, such as 0.2 or [0.2, 0.3]")


def _check_labels(file: SpecFile) -> None:
    spec = file.spec
    tissues = spec.tissues()
    for name, tissue in tissues.items():
        if name == "background":
            raise file.error(["labels", name], "is what no label has; give its values under 'background'")
        if tissue > len(tissues) or list(tissues.values()).count(tissue) > 1:
            raise file.error(
                ["labels", name], f"is tissue {tissue}; expected 1 to {len(tissues)}, each for one label, without gaps"
            )
    owner: dict[int, str] = dict.fromkeys(spec.background, "background")
    for name, label in spec.labels.items():
        for value in label.values:
            if owner.setdefault(value, name) != name:
                raise file.error(["labels", name, "values"], f"{value} is a value of {owner[value]} too")
    for name, labels in (spec.structures or {}).items():
        for label_name in labels:
            if label_name not in spec.labels:
                raise file.error(
                    ["structures", name], f"'{label_name}' is no label; there are {', '.join(spec.labels)}"
                )
        if not labels:
            raise file.error(["structures", name], f"is empty; expected some of {', '.join(spec.labels)}")


def resolved(spec: DatasetSpec) -> dict[str, Any]:
    """The spec with all defaults, as settings.json keeps it."""
    return spec.model_dump()
