"""Pairs of image and mask in a folder that another program filled.

Known layouts: `samples/` with `labels/` (the scripts of semantic diffusion models, whose `images/` are the real ones),
`images/` with `visible_labels/` or `raw_labels/` (those of EDMLX), `images/` with `sector_annotations/`,
`annotations/`, `labels/` or `masks/`, each flat or with one level of folders (training, validation) on both sides;
and NAME.png beside NAME_gt.png or NAME_mask.png. Such folders may lie below the one that is named, one a view for example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from echo_synth.errors import DataError
from echo_synth.files import listed

_PNG = "*.[pP][nN][gG]"
# Where there is more than one, the first counts. EDMLX's raw_labels are 64-bit numbers written as 8-bit ones.
_MASKS_OF = {
    "samples": ("labels",),
    "images": ("visible_labels", "raw_labels", "sector_annotations", "annotations", "labels", "masks"),
}
_MASK_ENDINGS = ("_gt", "_mask", "_label")
_DEEPEST = 3  # folders between the one that is named and those with files


@dataclass(frozen=True)
class Pair:
    """One image and its mask.

    Attributes:
        name: of the image, without its ending.
        folders: names of the folders between the one that was named and the image.
    """

    name: str
    image: Path
    mask: Path
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """Pairs in order of their names, and files that are no pair, with what is missing."""

    pairs: list[Pair]
    single: list[str]


def find_pairs(folder: Path, images: str | None = None, masks: str | None = None) -> Found:
    """All pairs in `folder` and below.

    Args:
        images, masks: names of the folders to take them from, where they are others than the known ones.

    Raises DataError when there is none, two have one name, or a folder cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; expected one with PNG images and masks")
    pairs: dict[str, Pair] = {}
    single: list[str] = []
    for where in _places(folder, 0, images, masks):
        roles = _roles(where, images, masks)
        found = _in_folders(*roles, folder) if roles else _beside(where, folder)
        single += found.single
        for pair in found.pairs:
            if pair.name in pairs:
                raise DataError(
                    f"{pair.image}: another image is called {pair.name} too ({pairs[pair.name].image}); rename one"
                )
            pairs[pair.name] = pair
    if not pairs:
        raise DataError(_nothing(folder, single))
    return Found([pairs[name] for name in sorted(pairs)], single)


def _nothing(folder: Path, single: list[str]) -> str:
    first = f" (first of {len(single)}: {single[0]})" if single else ""
    return (
        f"{folder}: no pair of image and mask{first}; expected samples/ with labels/, images/ with visible_labels/, "
        "annotations/ or masks/, or NAME.png with NAME_gt.png; other folders are named with --images and --masks"
    )


def _places(folder: Path, depth: int, images: str | None, masks: str | None) -> Iterator[Path]:
    """The folder, and those below it as far as none around them holds images and masks in folders of their own."""
    yield folder
    if depth == _DEEPEST or _roles(folder, images, masks):
        return
    for path in _inner(folder):
        yield from _places(path, depth + 1, images, masks)


def _inner(folder: Path) -> list[Path]:
    """Folders in `folder`. Raises DataError for a link to one, which may lead in a circle."""
    inner = [p for p in listed(folder, "*") if p.is_dir()]
    linked = [p for p in inner if p.is_symlink()]
    if linked:
        raise DataError(f"{linked[0]}: is a link to a folder; put a folder of images there")
    return inner


def _roles(where: Path, images: str | None, masks: str | None) -> tuple[Path, Path] | None:
    """Folders of images and masks, where `where` holds both: of the names that were given, else of known ones."""
    for known_images, known_masks in _MASKS_OF.items():
        image_folder = where / (images or known_images)
        mask_folders = (where / m for m in ([masks] if masks else known_masks))
        mask_folder = next((m for m in mask_folders if m.is_dir() and m != image_folder), None)
        if image_folder.is_dir() and mask_folder is not None:
            return image_folder, mask_folder
    return None


def _in_folders(image_folder: Path, mask_folder: Path, root: Path) -> Found:
    of_images, of_masks = _files(image_folder), _files(mask_folder)
    pairs = [
        Pair(path.stem, path, of_masks[key], path.parent.relative_to(root).parts)
        for key, path in of_images.items()
        if key in of_masks
    ]
    single = [f"{p} has no mask in {mask_folder}" for k, p in of_images.items() if k not in of_masks]
    single += [f"{p} has no image in {image_folder}" for k, p in of_masks.items() if k not in of_images]
    return Found(pairs, single)


def _files(folder: Path) -> dict[str, Path]:
    """PNG files of a folder and of those in it, by their names relative to it, without endings."""
    return _by_name((p for f in (folder, *_inner(folder)) for p in listed(f, _PNG)), folder)


def _by_name(files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """By their names relative to `folder`, without endings. Raises DataError for two of one name."""
    found: dict[str, Path] = {}
    for path in files:
        name = str(path.relative_to(folder).with_suffix(""))
        if name in found:
            raise DataError(f"{path}: has the name of {found[name].name} beside it; rename one")
        found[name] = path
    return found


def _beside(where: Path, root: Path) -> Found:
    files = _by_name(listed(where, _PNG), where)
    masks = {stem.removesuffix(e): p for stem, p in files.items() for e in _MASK_ENDINGS if stem.endswith(e)}
    images = {stem: p for stem, p in files.items() if not stem.endswith(_MASK_ENDINGS)}
    folders = where.relative_to(root).parts
    pairs = [Pair(stem, p, masks[stem], folders) for stem, p in images.items() if stem in masks]
    single = [f"{p} has no mask such as {s}_gt.png beside it" for s, p in images.items() if s not in masks]
    single += [f"{p} has no image {s}.png beside it" for s, p in masks.items() if s not in images]
    return Found(pairs, single)
