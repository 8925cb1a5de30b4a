"""Figures of what is inside the models: embeddings, weights, gradients."""

import math
from typing import Any

import numpy
from matplotlib.figure import Figure as Canvas
from matplotlib.patheffects import withStroke

from equipoise.report.papers.style import COLOURS, Drawing, canvas

_CLASSES = (*COLOURS, "#882255", "#44AA99")
"""Ten classes; colour alone would not tell them apart, so each is also written at its centre."""


def embeddings(drawing: Drawing) -> Canvas:
    """t-SNE of three sets of features, one panel each.

    Source:
        AFS Fig. 3.
    """
    found = drawing.data[0]
    figure, panels = canvas(1, 3, 1.5)
    labels = numpy.array(found["labels"])
    names = [*drawing.measured, "both"]
    for panel, name, each in zip(panels, names, found["embeddings"], strict=True):
        points = numpy.array(each["points"])
        for label in numpy.unique(labels):
            mine = points[labels == label]
            colour = _CLASSES[label % len(_CLASSES)]
            panel.scatter(
                mine[:, 0], mine[:, 1], s=1.2, color=colour, linewidths=0, rasterized=True
            )
            middle = numpy.median(mine, axis=0)
            if len(numpy.unique(labels)) <= len(_CLASSES):
                panel.text(
                    middle[0],
                    middle[1],
                    str(label),
                    size=5,
                    ha="center",
                    va="center",
                    weight="bold",
                    path_effects=[withStroke(linewidth=1.2, foreground="white")],
                )
        panel.set_title(f"{name}\nsilhouette {each['silhouette']:.2f}", size=6)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(False)
        panel.set_box_aspect(1)
        for spine in panel.spines.values():
            spine.set_visible(True)
    return figure


def weight_histograms(drawing: Drawing) -> Canvas:
    """The last layers' weights, one panel a model.

    Source:
        AFS Fig. 5.
    """
    found = drawing.data[0]
    figure, panels = canvas(1, len(found["models"]), 1.6, sharex=True, sharey=True)
    for panel, label, each in zip(panels, drawing.measured, found["models"], strict=True):
        panel.stairs(each["density"], found["edges"], fill=True, color=COLOURS[0], alpha=0.8)
        panel.set_title(f"{label}\nkurtosis {each['kurtosis']:.1f}", size=6)
    panels[0].set_ylabel("density")
    figure.supxlabel("weight, in deviations", size=7)
    return figure


def gradient_images(drawing: Drawing) -> Canvas:
    """An image a row: the image, then each model's gradient.

    Source:
        AFS Fig. 6: absolute value, normalised to [0, 1], log-transformed.
    """
    found = drawing.data[0]
    names = ["image", *drawing.measured]
    rows, columns = len(found["images"]), len(names)
    figure, panels = canvas(rows, columns, 3.3 * (rows + 0.35) / columns)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for row in range(rows):
        pictures = [numpy.array(found["images"][row]).transpose(1, 2, 0) / 255]
        pictures += [_logged(each[row]) for each in found["gradients"]]
        for column, picture in enumerate(pictures):
            panel = panels[row * columns + column]
            panel.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_axis_off()
            if row == 0:
                panel.set_title(names[column], size=6)
    return figure


def _logged(gradient: Any) -> Any:
    """From [0, 1] to [0, 1], small values drawn out."""
    return numpy.log1p(255 * numpy.array(gradient)) / math.log(256)
