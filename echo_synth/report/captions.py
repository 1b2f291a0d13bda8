"""Alternative texts and captions of the pictures that commands leave, by file name."""

from __future__ import annotations

from collections.abc import Mapping

Caption = tuple[str, str]  # alternative text, caption

# Of bootstrap-eval, by the part of metrics.json that each shows.
EVALUATION_PICTURES: Mapping[str, Mapping[str, Caption]] = {
    "segmentation": {
        "scores.png": (
            "Box plots of Dice and Hausdorff distance by structure",
            "Each point is one held-out image; with a baseline, a line joins the same image's two points.",
        ),
        "worst.png": (
            "Case of low Dice with predicted and reference outlines",
            "Real held-out images, the worst of them: prediction solid in the colours of the label maps, reference dashed white.",
        ),
    },
    "volumes": {
        "bland_altman.png": (
            "Bland-Altman plots of end-diastolic volume, end-systolic volume and ejection fraction",
            "Each point is a patient; solid line: bias, dashed: limits of agreement.",
        ),
    },
    "classification": {
        "classification.png": (
            "Confusion matrix and reliability curve of the view classifier",
            "Left: counts of held-out images. Right: observed share against claimed probability, area by number of images.",
        ),
    },
}
SWEEP_PICTURES: Mapping[str, Caption] = {
    "images.png": (
        "Images by model and number of network evaluations, all of one label map",
        "One label map, drawn by every model at every number of network evaluations (NFE): none of the images is real.",
    ),
    "scores.png": (
        "Dice, Hausdorff distance and view accuracy against the number of network evaluations",
        "What models trained on synthetic images alone reach on real patients; bands: 95 % intervals, which know patients alone, not how another training would differ (averaged over the seeds of repeated cells); dashed: trained on real images, thin: on images by simulated physics, dotted: on noise.",
    ),
    "throughput.png": (
        "Images a second against the number of network evaluations",
        "Throughput as measured while the sweep ran.",
    ),
    "looks.png": (
        "Rank correlations of looks and outcomes, and Dice against each measure of looks",
        "Top: rank correlation over the datasets, with its 95 % interval (patients and datasets resampled); a point on the right says that what looks more real teaches better. Below: each point is a dataset; the arrow shows which way is more real, dashed is what real images teach.",
    ),
    "pareto.png": (
        "Dice of the LV endocardium and error of the ejection fraction against seconds an image",
        "The grey line joins the cells that no other beats in both; numbers are NFE. Seconds are those of the processes that drew together.",
    ),
}
QUALITY_PICTURES: Mapping[str, Caption] = {
    "quality.png": (
        "Intensity histograms, agreement with the guiding maps, similarity to the nearest training image",
        "Intensity histograms, agreement with the guiding maps, similarity to the nearest training image.",
    ),
}
NEAREST: Caption = (
    "Drawn image above the real training image nearest to it",
    "The drawn images that are nearest to a real training image (above), and that training image (below).",
)
WIDE = ("images.png",)  # scrolled on a phone: its columns are compared with each other
