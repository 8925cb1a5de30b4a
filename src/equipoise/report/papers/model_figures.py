"""Figures of what is inside the models: embeddings, weights, gradients."""

import math
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patheffects import withStroke

from equipoise.report.papers.measurements import Drawing
from equipoise.report.papers.style import COLOURS, canvas

_CLASSES = (*COLOURS, "#882255", "#44AA99")
"""Colours of ten classes; they are hard to distinguish, so each class is also labelled."""


def embeddings(drawing: Drawing) -> Canvas:
    """t-SNE of three sets of features, one panel each.

    Source:
        AFS Fig. 3.
    """
    content = drawing.data[0]
    figure, panels = canvas(1, 3, 1.5)
    labels = numpy.array(content["labels"])
    names = [*drawing.measured, "both"]
    for panel, name, embedding in zip(panels, names, content["embeddings"], strict=True):
        _scatter_classes(panel, numpy.array(embedding["points"]), labels)
        panel.set_title(f"{name}\nsilhouette {embedding['silhouette']:.2f}", size=6)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(False)
        panel.set_box_aspect(1)
        for spine in panel.spines.values():
            spine.set_visible(True)
    return figure


def weight_histograms(drawing: Drawing) -> Canvas:
    """Histograms of the last layers' weights, one panel for each model.

    Source:
        AFS Fig. 5.
    """
    content = drawing.data[0]
    figure, panels = canvas(1, len(content["models"]), 1.6, sharex=True, sharey=True)
    for panel, label, weights in zip(panels, drawing.measured, content["models"], strict=True):
        panel.stairs(weights["density"], content["edges"], fill=True, color=COLOURS[0], alpha=0.8)
        panel.set_title(f"{label}\nkurtosis {weights['kurtosis']:.1f}", size=6)
    panels[0].set_ylabel("density")
    figure.supxlabel("weight, in deviations", size=7)
    return figure


def gradient_images(drawing: Drawing) -> Canvas:
    """Gradients of each model with respect to the image, one row for each image.

    Source:
        AFS Fig. 6: absolute value, normalised to [0, 1], log-transformed.
    """
    content = drawing.data[0]
    names = ["image", *drawing.measured]
    rows, columns = len(content["images"]), len(names)
    figure, panels = canvas(rows, columns, 3.3 * (rows + 0.35) / columns)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for row in range(rows):
        pictures = [numpy.array(content["images"][row]).transpose(1, 2, 0) / 255]
        pictures += [_log_scaled(gradients[row]) for gradients in content["gradients"]]
        for column, picture in enumerate(pictures):
            panel = panels[row * columns + column]
            panel.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_axis_off()
            if row == 0:
                panel.set_title(names[column], size=6)
    return figure


def _scatter_classes(panel: Axes, points: Any, labels: Any) -> None:
    """Points coloured by class; up to ten classes are labelled at their median."""
    classes = numpy.unique(labels)
    for label in classes:
        members = points[labels == label]
        colour = _CLASSES[label % len(_CLASSES)]
        panel.scatter(
            members[:, 0], members[:, 1], s=1.2, color=colour, linewidths=0, rasterized=True
        )
        if len(classes) <= len(_CLASSES):
            x, y = numpy.median(members, axis=0)
            panel.text(
                x,
                y,
                str(label),
                size=5,
                ha="center",
                va="center",
                weight="bold",
                path_effects=[withStroke(linewidth=1.2, foreground="white")],
            )


def _log_scaled(gradient: Any) -> Any:
    """Map [0, 1] to [0, 1] so that small values become visible."""
    return numpy.log1p(255 * numpy.array(gradient)) / math.log(256)
