"""quality.json as text: the terminal's lines and the page's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from echo_synth.report.cells import Rows, cell

Line = tuple[str, str]
_DISTANCES = {"kernel_distance": "Kernel distance", "frechet_distance": "Fréchet distance"}
_TEXTURE = {
    "axial_mm": "Grain along depth, mm",
    "lateral_mm": "Grain across, mm",
    "grain": "Strength of grain",
    "nakagami_m": "Nakagami m",
}


def quality_rows(result: Mapping[str, Any]) -> list[Line]:
    """What matters most in a quality.json: measure and value."""
    rows: list[Line] = []
    if result.get("features"):
        rows += _features(result["features"])
    if result.get("diversity"):
        rows.append(_diversity(result["diversity"]))
    if result.get("real_or_synthetic"):
        rows.append(_told_apart(result["real_or_synthetic"]))
    rows.append(("Kolmogorov distance of grey levels", f"{result['intensity']['kolmogorov_distance']:.3f}"))
    rows += _texture(result["texture"])
    if result.get("agreement"):
        rows.append(_agreement(result["agreement"]))
    rows += [_area(entry) for entry in result.get("cavity_areas") or () if entry["images"]]
    return [*rows, *_privacy(result["privacy"])]


def _features(features: Mapping[str, Any]) -> Iterator[Line]:
    ours, floor = features["synthetic"], features["unseen_real"]
    for key, label in _DISTANCES.items():
        yield label, f"{ours[key]:.4g} (unseen real images: {floor[key]:.4g}); {features['network']}"


def _diversity(entry: Mapping[str, Any]) -> Line:
    value = f"{entry['synthetic']['mean']:.3f} (real {entry['real']['mean']:.3f}); {entry['network']}"
    return "Perceptual diversity", value


def _told_apart(entry: Mapping[str, Any]) -> Line:
    value = cell({"mean": entry["auroc"], "ci95": entry["ci95"]}, 2)
    return "Real or synthetic, AUROC of a small network", f"{value}; {entry['images']} images, 0.5: not told apart"


def _texture(texture: Mapping[str, Any]) -> Iterator[Line]:
    for key, label in _TEXTURE.items():
        medians = {name: measures[key]["median"] for name, measures in texture.items()}
        yield label, ", ".join(f"{name} {v:.3g}" for name, v in medians.items() if v is not None)


def _agreement(entry: Mapping[str, Any]) -> Line:
    value = f"{cell(entry['agreement'], 3)}; {entry['low']} images below {entry['limit']}"
    return "Agreement with the maps, Dice", value


def _area(entry: Mapping[str, Any]) -> Line:
    high = f"to {entry['high']:.0f}" if entry["high"] is not None else "and more"
    value = cell({"mean": entry["ratio"], "ci95": entry["ci95"]}, 2)
    return f"Cavity's area, read over map's, {entry['low']:.0f} {high} px", f"{value}; {entry['images']} images"


def _privacy(privacy: Mapping[str, Any]) -> Iterator[Line]:
    labels = {
        "synthetic": "Near copies of training images",
        "unseen_real": f"Unseen real images flagged alike, meant {privacy['rate']:.1%}",
    }
    for key, label in labels.items():
        entry = privacy[key]
        low, high = entry["ci95"]
        share = f"{entry['flagged']} of {entry['images']}, {entry['share']:.1%}"
        yield label, share if None in (low, high) else f"{share} [{low:.1%}, {high:.1%}]"
    for space, limit in (privacy.get("limits") or {}).items():
        yield (
            f"Similarity in {space} above which it is near",
            _limit(limit, (privacy.get("limits_ci95") or {}).get(space)),
        )


def _limit(limit: float | None, interval: Sequence[float | None] | None) -> str:
    if limit is None:
        return "–"
    low, high = interval or (None, None)
    if low is None:
        return f"{limit:.3f}"
    return f"{limit:.3f} [{low:.3f}, {'no limit' if high is None else f'{high:.3f}'}]"


def recall_rows(privacy: Mapping[str, Any]) -> Rows:
    """How many planted copies are found, a row a kind and size of change; the header alone where none were planted."""
    rows = [["Change of a training image", "Found", "Share"]]
    for entry in privacy.get("recall") or []:
        low, high = entry["ci95"]
        interval = "" if None in (low, high) else f" [{low:.0%}, {high:.0%}]"
        rows.append([entry["change"], f"{entry['found']} of {entry['planted']}", f"{entry['share']:.0%}{interval}"])
    return rows
