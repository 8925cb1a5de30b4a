"""Figures that are lines and points: accuracy, features, fusing weights and importance."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.report.papers.entry import WORST
from equipoise.report.papers.measurements import accuracies
from equipoise.report.papers.style import COLOURS, DASHES, MARKS, Drawing, canvas
from equipoise.report.run_files import budgets_of
from equipoise.report.table import strength_marks

Numbers = Sequence[float]
_AFA = " + AFA"
_LETTERS = 60
"""So many fit into a column's width in a legend; each entry's mark takes eight."""


def accuracy_curves(drawing: Drawing) -> Canvas:
    """Accuracy over strength, one line a model; published curves above, where there are some.

    A method and AFA over it share their colour; without AFA the line is dashed and its marks open.
    """
    shown = bool(drawing.published)
    labels = _labels(drawing)
    columns = max(1, min(3, _LETTERS // (max(map(len, labels)) + 8)))
    lines = math.ceil(len(labels) / columns)
    figure, panels = canvas(1 + shown, 1, (4.3 if shown else 2.4) + 0.11 * lines)
    for label, values in drawing.published.items():
        keys = [key for key in values if key == "0" or key.endswith("/255")]
        strengths = [float(key.split("/")[0]) for key in keys]
        style = _paired(label, drawing)
        panels[0].plot(strengths, [values[key] for key in keys], label=label, **style)
        panels[0].set_xticks(strengths)
        panels[0].set_title(drawing.published_as, loc="left")
        panels[0].set_xlabel("strength ε, in 255ths")
    panel = panels[-1]
    for label, results in drawing.measured.items():
        found = [[100 * x for x in accuracies(r.record, WORST) or ()] for r in results]
        record, style = results[0].record, _paired(label, drawing)
        middle, spread = _over_seeds(found)
        panel.plot(record["epsilons"], middle, label=label, **style)
        _band(panel, record["epsilons"], middle, spread, style["color"])
    _strengths(panel, record)
    panel.set_title(drawing.measured_as, loc="left")
    for each in panels:
        each.set_ylabel("accuracy, %")
        each.set_ylim(0, min(101, 1.05 * each.dataLim.ymax))
    figure.legend(
        *_legend(panels, labels), loc="outside lower center", ncols=columns, handlelength=2.8
    )
    return figure


def channel_statistics(drawing: Drawing) -> Canvas:
    """Each channel's mean and variance over strength against those of clean images.

    Source:
        AFA Fig. 3. Deviation: the mean's change is in units of the channel's clean deviation and
        the variance is relative to the clean one; as they are, the channels' offsets hide both.
    """
    found = drawing.data[0]
    figure, panels = canvas(1, 2, 1.9)
    means, variances = (list(zip(*found[name], strict=True)) for name in ("mean", "variance"))
    moved = [
        [(value - mine[0]) / math.sqrt(spread[0]) for value in mine]
        for mine, spread in zip(means, variances, strict=True)
    ]
    ratios = [[value / mine[0] for value in mine] for mine in variances]
    heads = ("change of mean", "relative variance")
    for panel, head, channels in zip(panels, heads, (moved, ratios), strict=True):
        # Channels that move most are drawn darkest: shade is order here, and no name.
        for place, values in enumerate(sorted(channels, key=lambda v: abs(v[-1] - v[0]))):
            shade = (place + 1) / len(channels)
            panel.plot(
                found["epsilons"],
                values,
                color=COLOURS[0],
                alpha=0.15 + 0.75 * shade,
                linewidth=0.5 + 0.5 * shade,
            )
        panel.set_title(head, loc="left")
        _strengths(panel, next(iter(drawing.measured.values()))[0].record)
    panels[0].set_ylabel(f"{len(means)} channels of {found['layer']}")
    return figure


def fusing_weights(drawing: Drawing) -> Canvas:
    """Mean W1 over strength, with a band of one deviation over images.

    Source:
        AFA Fig. 6.
    """
    figure, panels = canvas(1, 1, 2.4)
    panel = panels[0]
    ways = {"through_generator": "", "through_robust_branch": ", via robust branch"}
    for place, (label, results) in enumerate(drawing.measured.items()):
        record = results[0].record
        for dash, (way, words) in zip(DASHES, ways.items(), strict=False):
            points = list(zip(*(r.record["fusing_weight"][way] for r in results), strict=True))
            middle = [mean(each["mean"] for each in seeds) for seeds in points]
            panel.plot(
                record["epsilons"],
                middle,
                dash,
                color=COLOURS[place],
                marker=MARKS[place],
                label=label + words,
            )
            if dash == DASHES[0]:
                spread = [mean(each["std"] for each in seeds) for seeds in points]
                low = [max(0.0, a - b) for a, b in zip(middle, spread, strict=True)]
                high = [min(1.0, a + b) for a, b in zip(middle, spread, strict=True)]
                panel.fill_between(
                    record["epsilons"], low, high, color=COLOURS[place], alpha=0.15, linewidth=0
                )
    _strengths(panel, record)
    panel.set_ylabel("W1, weight of the robust branch")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def trade_off_scatter(drawing: Drawing) -> Canvas:
    """Clean accuracy against PGD accuracy, published above and measured below.

    Source:
        AFS Fig. 1.
    """
    figure, panels = canvas(2, 1, 4.2)
    labels = _labels(drawing)
    styles = {label: place for place, label in enumerate(labels)}
    for label, values in drawing.published.items():
        _point(panels[0], values["0"], values["PGD"], label, styles[label])
    for label, results in drawing.measured.items():
        records = [result.record for result in results]
        clean = 100 * mean(record["headline"]["accuracy"][0] for record in records)
        pgd = 100 * mean((accuracies(record, "pgd-20") or [0.0])[-1] for record in records)
        worst = 100 * mean(record["headline"]["accuracy"][-1] for record in records)
        colour = COLOURS[styles[label] % len(COLOURS)]
        panels[1].plot([clean, clean], [worst, pgd], color=colour, linewidth=0.8, zorder=1)
        _point(panels[1], clean, pgd, label, styles[label])
    panels[0].set_title(drawing.published_as, loc="left")
    panels[1].set_title(drawing.measured_as, loc="left")
    for panel in panels:
        panel.set_xlabel("clean accuracy, %")
        panel.set_ylabel("accuracy under PGD, %")
        panel.margins(0.12)
    figure.legend(*_legend(panels, labels), loc="outside lower center", ncols=4, handletextpad=0.2)
    return figure


def importance_by_alpha(drawing: Drawing) -> Canvas:
    """Each member's share of the merger's absolute weights, one line an α.

    Source:
        AFS Fig. 4(b).
    """
    figure, panels = canvas(1, 1, 2.4)
    panel = panels[0]
    for place, (label, results) in enumerate(drawing.measured.items()):
        shares = [[100 * share for share in r.record["importance"]] for r in results]
        middle, spread = _over_seeds(shares)
        colour = COLOURS[place % len(COLOURS)]
        panel.plot(
            range(len(middle)),
            middle,
            DASHES[place // 2 % len(DASHES)],
            color=colour,
            marker=MARKS[place % len(MARKS)],
            label=label,
        )
        _band(panel, range(len(middle)), middle, spread, colour)
    panel.set_xticks(range(len(middle)), budgets_of(results[0].recipe["method"]))
    panel.set_xlabel("budget of the member")
    panel.set_ylabel("importance ratio, %")
    figure.legend(loc="outside lower center", ncols=3, handlelength=2.2)
    return figure


_ROUNDS = ("-", ":", "-.")
"""Of lines once all colours are used up; dashes are for what has a twin."""


def _labels(drawing: Drawing) -> list[str]:
    """Every model, those that are only published last."""
    return list(dict.fromkeys([*drawing.measured, *drawing.published]))


def _legend(panels: Sequence[Axes], labels: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Marks and labels of all panels, each model once."""
    marks: dict[str, Any] = {}
    for panel in panels:
        marks |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    shown = [label for label in labels if label in marks]
    return [marks[label] for label in shown], shown


def _paired(label: str, drawing: Drawing) -> dict[str, Any]:
    base = label.removesuffix(_AFA)
    labels = _labels(drawing)
    place = list(dict.fromkeys(other.removesuffix(_AFA) for other in labels)).index(base)
    with_twin = base + _AFA in labels
    open_marks = with_twin and label == base
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKS[place % len(MARKS)],
        "linestyle": "--" if open_marks else _ROUNDS[place // len(COLOURS) % len(_ROUNDS)],
        "markerfacecolor": "white" if open_marks else COLOURS[place % len(COLOURS)],
    }


def _band(panel: Axes, x: Any, y: Numbers, spread: Numbers | None, colour: str) -> None:
    """One deviation over seeds, where there are several."""
    if spread is not None:
        low = [a - b for a, b in zip(y, spread, strict=True)]
        high = [a + b for a, b in zip(y, spread, strict=True)]
        panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _point(panel: Axes, x: float, y: float, label: str, place: int) -> None:
    panel.plot(
        [x],
        [y],
        linestyle="none",
        markersize=5,
        label=label,
        color=COLOURS[place % len(COLOURS)],
        marker=MARKS[place % len(MARKS)],
    )


def _over_seeds(found: Sequence[Numbers]) -> tuple[list[float], list[float] | None]:
    columns = list(zip(*found, strict=True))
    spread = [stdev(column) for column in columns] if len(found) > 1 else None
    return [mean(column) for column in columns], spread


def _strengths(panel: Axes, record: dict[str, Any]) -> None:
    """Ticks at the strengths."""
    marks, unit = strength_marks(record)
    panel.set_xticks(record["epsilons"], marks)
    panel.set_xlabel("strength ε" + unit)
