"""Figures with lines and points: accuracy, features, fusing weights and importance."""

import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.report.papers.entry import SURROGATE, WORST
from equipoise.report.papers.measurements import Drawing, accuracies
from equipoise.report.papers.style import COLOURS, DASHES, MARKS, canvas
from equipoise.report.run_files import extractor_budgets
from equipoise.report.series import ATTACK_PATHS, fusing_weight_band, over_seeds
from equipoise.report.table import strength_ticks

Numbers = Sequence[float]
_AFA = " + AFA"
_LEGEND_WIDTH = 60
"""Letters in a line of the legend, which is as wide as the figure; each entry's mark takes 8."""
_UNPAIRED_DASHES = ("-", ":", "-.")
"""Line styles once all colours are used; ``--`` is reserved for methods shown with and without
AFA."""


def accuracy_curves(drawing: Drawing) -> Canvas:
    """Accuracy against strength, one line for each model; published curves, if any, are above.

    A method with and without AFA has one colour; without AFA its line is dashed and its marks open.

    Source:
        AFA Fig. 1, AFS Fig. 4(a).
    """
    has_published = bool(drawing.published)
    labels = _labels(drawing)
    columns = max(1, min(3, _LEGEND_WIDTH // (max(map(len, labels)) + 8)))
    lines = math.ceil(len(labels) / columns)
    height = (4.3 if has_published else 2.4) + 0.11 * lines
    figure, panels = canvas(1 + has_published, 1, height)
    for label, values in drawing.published.items():
        keys = [key for key in values if key == "0" or key.endswith("/255")]
        strengths = [float(key.split("/")[0]) for key in keys]
        style = _paired_style(label, labels)
        panels[0].plot(strengths, [values[key] for key in keys], label=label, **style)
        panels[0].set_xticks(strengths)
        panels[0].set_title(drawing.published_as, loc="left")
        panels[0].set_xlabel("strength ε, in 255ths")
    panel = panels[-1]
    for label, results in drawing.measured.items():
        curves = [[100 * share for share in accuracies(r.record, WORST) or ()] for r in results]
        record, style = results[0].record, _paired_style(label, labels)
        middle, spread = over_seeds(curves)
        panel.plot(record["epsilons"], middle, label=label, **style)
        _band(panel, record["epsilons"], middle, spread, style["color"])
    _strength_axis(panel, record)
    panel.set_title(drawing.measured_as, loc="left")
    for panel in panels:
        panel.set_ylabel("accuracy, %")
        panel.set_ylim(0, min(101, 1.05 * panel.dataLim.ymax))
    figure.legend(
        *_legend(panels, labels), loc="outside lower center", ncols=columns, handlelength=2.8
    )
    return figure


def channel_statistics(drawing: Drawing) -> Canvas:
    """Mean and variance of each channel against strength, relative to clean images.

    Source:
        AFA Fig. 3. Deviation: the change of the mean is in units of the channel's standard
        deviation on clean images, and the variance is divided by the clean variance; otherwise the
        channels' offsets hide both.
    """
    statistics = drawing.data[0]
    figure, panels = canvas(1, 2, 1.9)
    means, variances = (list(zip(*statistics[name], strict=True)) for name in ("mean", "variance"))
    changes = [
        [(value - channel[0]) / math.sqrt(variance[0]) for value in channel]
        for channel, variance in zip(means, variances, strict=True)
    ]
    ratios = [[value / channel[0] for value in channel] for channel in variances]
    heads = ("change of mean", "relative variance")
    for panel, head, channels in zip(panels, heads, (changes, ratios), strict=True):
        # The darker a channel, the more it changes: the shade is a rank, not an identity.
        ordered = sorted(channels, key=lambda channel: abs(channel[-1] - channel[0]))
        for index, values in enumerate(ordered):
            shade = (index + 1) / len(channels)
            panel.plot(
                statistics["epsilons"],
                values,
                color=COLOURS[0],
                alpha=0.15 + 0.75 * shade,
                linewidth=0.5 + 0.5 * shade,
            )
        panel.set_title(head, loc="left")
        _strength_axis(panel, next(iter(drawing.measured.values()))[0].record)
    panels[0].set_ylabel(f"{len(means)} channels of {statistics['layer']}")
    return figure


def fusing_weights(drawing: Drawing) -> Canvas:
    """Mean fusing weight W1 against strength, with a band of one deviation over images.

    Lines are of images attacked on the model itself, points of images attacked on a surrogate at
    random strengths: the mean of each eighth of the strengths.

    Source:
        AFA Fig. 6, whose images come from a ResNet-34.
    """
    figure, panels = canvas(1, 1, 2.4)
    panel = panels[0]
    shown = {label: r for label, r in drawing.measured.items() if label != SURROGATE}
    for index, (label, results) in enumerate(shown.items()):
        for number, data in enumerate(drawing.data):
            panel.plot(
                *_eighths(data["epsilons"], data["w1"][index]),
                linestyle="none",
                color=COLOURS[index],
                marker="x",
                label=None if number else f"{label}, from the surrogate",
            )
        record = results[0].record
        for dash, path in zip(DASHES, ATTACK_PATHS, strict=False):
            band = fusing_weight_band([r.record["fusing_weight"][path] for r in results])
            through_generator = path == "through_generator"
            panel.plot(
                record["epsilons"],
                band.mean,
                dash,
                color=COLOURS[index],
                marker=MARKS[index],
                label=label if through_generator else f"{label}, via robust branch",
            )
            if through_generator:
                _fill(panel, record["epsilons"], band.low, band.high, COLOURS[index])
    _strength_axis(panel, record)
    panel.set_ylabel("W1, weight of the robust branch")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _eighths(strengths: Numbers, values: Numbers) -> tuple[list[float], list[float]]:
    """Mean strength and mean value in each eighth of the strengths that holds an image."""
    top = max(strengths) or 1.0
    eighths: dict[int, list[tuple[float, float]]] = {}
    for pair in zip(strengths, values, strict=True):
        eighths.setdefault(min(7, int(8 * pair[0] / top)), []).append(pair)
    pairs = [tuple(map(mean, zip(*eighths[k], strict=True))) for k in sorted(eighths)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def trade_off_scatter(drawing: Drawing) -> Canvas:
    """Clean accuracy against accuracy under PGD, published above and measured below.

    A vertical line leads from PGD to the worst case over all attacks.

    Source:
        AFS Fig. 1.
    """
    figure, panels = canvas(2, 1, 4.2)
    labels = _labels(drawing)
    indices = {label: index for index, label in enumerate(labels)}
    for label, values in drawing.published.items():
        _point(panels[0], values["0"], values["PGD"], label, indices[label])
    for label, results in drawing.measured.items():
        records = [result.record for result in results]
        clean = 100 * mean(record["headline"]["accuracy"][0] for record in records)
        pgd = 100 * mean((accuracies(record, "pgd-20") or [0.0])[-1] for record in records)
        worst = 100 * mean(record["headline"]["accuracy"][-1] for record in records)
        colour = COLOURS[indices[label] % len(COLOURS)]
        panels[1].plot([clean, clean], [worst, pgd], color=colour, linewidth=0.8, zorder=1)
        _point(panels[1], clean, pgd, label, indices[label])
    panels[0].set_title(drawing.published_as, loc="left")
    panels[1].set_title(drawing.measured_as, loc="left")
    for panel in panels:
        panel.set_xlabel("clean accuracy, %")
        panel.set_ylabel("accuracy under PGD, %")
        panel.margins(0.12)
    figure.legend(*_legend(panels, labels), loc="outside lower center", ncols=4, handletextpad=0.2)
    return figure


def importance_by_alpha(drawing: Drawing) -> Canvas:
    """Share of each member in the merger's absolute weights, one line for each α.

    Source:
        AFS Fig. 4(b).
    """
    figure, panels = canvas(1, 1, 2.4)
    panel = panels[0]
    for index, (label, results) in enumerate(drawing.measured.items()):
        shares = [[100 * share for share in r.record["importance"]] for r in results]
        middle, spread = over_seeds(shares)
        colour = COLOURS[index % len(COLOURS)]
        panel.plot(
            range(len(middle)),
            middle,
            DASHES[index // 2 % len(DASHES)],
            color=colour,
            marker=MARKS[index % len(MARKS)],
            label=label,
        )
        _band(panel, range(len(middle)), middle, spread, colour)
    panel.set_xticks(range(len(middle)), extractor_budgets(results[0].recipe["method"]))
    panel.set_xlabel("budget of the member")
    panel.set_ylabel("importance ratio, %")
    figure.legend(loc="outside lower center", ncols=3, handlelength=2.2)
    return figure


def _labels(drawing: Drawing) -> list[str]:
    """Every model; those that are only published come last."""
    return list(dict.fromkeys([*drawing.measured, *drawing.published]))


def _legend(panels: Sequence[Axes], labels: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Marks and labels of all panels, each model once."""
    marks: dict[str, Any] = {}
    for panel in panels:
        marks |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    shown = [label for label in labels if label in marks]
    return [marks[label] for label in shown], shown


def _paired_style(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """Line style of a model; one colour for a method with and without AFA."""
    method = label.removesuffix(_AFA)
    methods = list(dict.fromkeys(other.removesuffix(_AFA) for other in labels))
    index = methods.index(method)
    open_marks = label == method and method + _AFA in labels
    dash = _UNPAIRED_DASHES[index // len(COLOURS) % len(_UNPAIRED_DASHES)]
    colour = COLOURS[index % len(COLOURS)]
    return {
        "color": colour,
        "marker": MARKS[index % len(MARKS)],
        "linestyle": "--" if open_marks else dash,
        "markerfacecolor": "white" if open_marks else colour,
    }


def _band(panel: Axes, x: Any, y: Numbers, spread: Numbers | None, colour: str) -> None:
    """Band of one deviation over seeds, if there are several."""
    if spread is not None:
        low = [middle - deviation for middle, deviation in zip(y, spread, strict=True)]
        high = [middle + deviation for middle, deviation in zip(y, spread, strict=True)]
        _fill(panel, x, low, high, colour)


def _fill(panel: Axes, x: Any, low: Numbers, high: Numbers, colour: str) -> None:
    panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _point(panel: Axes, x: float, y: float, label: str, index: int) -> None:
    panel.plot(
        [x],
        [y],
        linestyle="none",
        markersize=5,
        label=label,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKS[index % len(MARKS)],
    )


def _strength_axis(panel: Axes, record: dict[str, Any]) -> None:
    """Label the axis of strengths, with a tick at each strength of the record."""
    ticks, unit = strength_ticks(record)
    panel.set_xticks(record["epsilons"], ticks)
    panel.set_xlabel("strength ε" + unit)
