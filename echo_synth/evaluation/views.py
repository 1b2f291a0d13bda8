"""Evaluation of a view classifier on test images of known view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from echo_synth.downstream.classifier import predict_views
from echo_synth.evaluation.results import Metrics
from echo_synth.evaluation.statistics import Resampling
from echo_synth.evaluation.view_statistics import classification_metrics
from echo_synth.runs.folder import ClassifierRun


@dataclass(frozen=True)
class ViewResult:
    """What one evaluation of a view classifier measured.

    Attributes:
        views: columns image, patient, view (2CH, 4CH: the truth), probability_4CH in [0, 1].
        metrics: the part of metrics.json that follows: classification.
    """

    views: pd.DataFrame
    metrics: Metrics


def evaluate_views(run: ClassifierRun, images: Path, device: str, resampling: Resampling) -> ViewResult:
    """Judge a trained view classifier on the test images of a classification folder.

    Raises RunError or DataError where the run is no such classifier, or there are no images.
    """
    views = predict_views(run, images, device)
    return ViewResult(views, Metrics(classification=classification_metrics(views, resampling)))
