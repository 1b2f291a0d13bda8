"""The groups in which `echosynth --help` lists the commands, in the order of the work."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "Data": ("convert-camus", "convert", "phantom", "make-maps", "import-images", "mix-datasets"),
    "Train a generator": ("train-vae", "train", "distill", "average-weights", "import-edmlx", "fit-prior"),
    "Generate": ("generate", "noise-dataset", "sample-grid", "plan"),
    "Evaluate": (
        "train-segmenter",
        "predict-segmenter",
        "train-classifier",
        "bootstrap-eval",
        "quality",
        "report",
    ),
    "Study": ("sweep", "study-solvers", "inspect-vae", "benchmark"),
    "Tools": ("demo", "list", "browse", "doctor", "verify", "env"),
}
