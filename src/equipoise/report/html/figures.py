"""Figures of the HTML page, as JSON for plotly.js. The page sets the colours of text and rules."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain
from statistics import mean
from typing import Any

from equipoise.records.epsilon import format_epsilon
from equipoise.report.html.models import COLOURS, DASHES, Model, Value
from equipoise.report.record import Record
from equipoise.report.series import GREY, fusing_weight_band
from equipoise.report.table import strength_ticks

Figure = dict[str, Any]
Trace = dict[str, Any]
PUBLISHED = "published"
"""``meta`` of the trace of published results; the ``meta`` of other traces is a model's number."""
_ONE_IMAGE = "%{fullData.name}, one image: W1 = %{y:.3f}<extra></extra>"
_ATTACK_PATHS = {
    "through_generator": ("attacked through the generator", "solid"),
    "through_robust_branch": ("attacked through the fixed robust branch", "dot"),
}


def curves(models: Sequence[Model]) -> Figure:
    """Accuracy against strength: one line for each model, with its intervals as a band."""
    record = models[0].records[0]
    epsilons, traces = record["epsilons"], []
    for model in models:
        values = model.accuracies
        intervals = [value.interval or (value.mean, value.mean) for value in values]
        low, high = ([_percent(end) for end in ends] for ends in zip(*intervals, strict=True))
        texts = [
            f"<b>{escape(model.label)}</b><br>ε = {written}: {format_value(value)}"
            for written, value in zip(record["epsilons_written"], values, strict=True)
        ]
        traces += [
            _band(model, epsilons, low, high, min(0.12, 0.6 / len(models))),
            _line(model, epsilons, [_percent(value.mean) for value in values], texts),
        ]
    y = {"title": "accuracy, %", "range": [0, 100]}
    return _figure(traces, x=_strengths(record), y=y, height=420)


def scatter(models: Sequence[Model], published: Sequence[Mapping[str, Any]]) -> Figure:
    """Clean accuracy and accuracy at the strongest strength, with intervals in both directions."""
    strongest = models[0].records[0]["epsilons_written"][-1]
    traces = []
    for model in models:
        clean, robust = model.accuracies[0], model.accuracies[-1]
        text = f"<b>{escape(model.label)}</b><br>clean: {format_value(clean)}<br>ε = {strongest}: "
        marker = {"color": model.colour, "symbol": model.symbol, "size": 12}
        x, y = [_percent(clean.mean)], [_percent(robust.mean)]
        traces.append(
            _points(x, y, marker, model.number, [text + format_value(robust)])
            | {
                "error_x": _interval_bar(clean, model.colour),
                "error_y": _interval_bar(robust, model.colour),
            }
        )
    if published:
        texts = [
            f"<b>{escape(row['model'])}</b>, published<br>clean {100 * row['clean']:.1f} %, "
            f"ε = {strongest} {100 * row['robust']:.1f} % ({row['attack']})"
            f"<br>{row['network']}<br>{row['source']}"
            for row in published
        ]
        marker = {"color": GREY, "symbol": "circle-open", "size": 9}
        x, y = ([_percent(row[key]) for row in published] for key in ("clean", "robust"))
        traces.append(_points(x, y, marker, PUBLISHED, texts))
    x_axis, y_axis = "clean accuracy, %", f"accuracy at ε = {strongest}, %"
    return _figure(traces, x={"title": x_axis}, y={"title": y_axis}, height=420)


def weights(models: Sequence[Model]) -> Figure | None:
    """Mean fusing weight of the robust branch against strength.

    The band is one standard deviation over images.

    Args:
        models: All models of the report; those without a weight generator are left out.

    Returns:
        A figure, or ``None`` if no model has a weight generator.

    Source:
        AFA Fig. 6.
    """
    traces = []
    for model in models:
        fusing = model.model_internals("fusing_weight")
        epsilons, written = (model.records[0][key] for key in ("epsilons", "epsilons_written"))
        for path, (words, dash) in _ATTACK_PATHS.items() if fusing else ():
            band = fusing_weight_band([weight[path] for weight in fusing])
            texts = [
                f"<b>{escape(model.name)}</b><br>{words}<br>ε = {strength}: W1 = {centre:.3f} "
                f"(deviation over images {spread:.3f})"
                for strength, centre, spread in zip(written, band.mean, band.spread, strict=True)
            ]
            if path == "through_generator":
                traces.append(_band(model, epsilons, band.low, band.high, 0.12))
            traces.append(_line(model, epsilons, band.mean, texts, dash=dash))
    if not traces:
        return None
    y = {"title": "W1, weight of the robust branch"}
    return _figure(traces, x=_strengths(models[0].records[0]), y=y, height=380)


def weights_per_image(models: Sequence[Model]) -> Figure | None:
    """Fusing weight of single images against strength: one faint line for each image.

    Args:
        models: All models of the report; for each, the first record with the weights of single
            images is drawn.

    Returns:
        A figure, or ``None`` if no record holds them.
    """
    traces = []
    for model in models:
        for fusing in model.model_internals("fusing_weight")[:1]:
            by_strength = [point.get("per_image", []) for point in fusing["through_generator"]]
            images = list(zip(*by_strength, strict=True))
            if images:
                epsilons = model.records[0]["epsilons"]
                traces.append(
                    {
                        "type": "scatter",
                        "x": [*epsilons, None] * len(images),
                        "y": list(chain.from_iterable([*image, None] for image in images)),
                        "mode": "lines",
                        "line": {"color": model.colour, "width": 0.7},
                        "opacity": 0.35,
                        "meta": model.number,
                        "name": escape(model.name),
                        "hovertemplate": _ONE_IMAGE,
                    }
                )
    if not traces:
        return None
    y = {"title": "W1 of each image"}
    return _figure(traces, x=_strengths(models[0].records[0]), y=y, height=380)


def importance(models: Sequence[Model], members: Mapping[int, Sequence[str]]) -> Figure | None:
    """Importance of each member of a stack: its share of the merger's absolute weights.

    Args:
        models: All models of the report; those without members are left out.
        members: Names of the members by model number, where they are known.

    Returns:
        A figure, or ``None`` if no model is a stack.

    Source:
        AFS Fig. 4(b).
    """
    traces: list[Trace] = []
    for model in models:
        by_seed = model.model_internals("importance")
        if not by_seed:
            continue
        shares = [mean(member) for member in zip(*by_seed, strict=True)]
        names = [f"member {number}" for number in range(len(shares))]
        if model.number in members:
            pairs = zip(names, members[model.number], strict=True)
            names = [f"{name}<br>{escape(member)}" for name, member in pairs]
        traces.append(
            {
                "type": "bar",
                "x": names,
                "y": [_percent(share) for share in shares],
                "marker": {"color": model.colour},
                "error_y": _seed_range(by_seed),
                "meta": model.number,
                "hovertext": [
                    f"<b>{escape(model.name)}</b><br>{name}: {100 * share:.1f} % of the merger"
                    for name, share in zip(names, shares, strict=True)
                ],
                "hoverinfo": "text",
            }
        )
    if not traces:
        return None
    y = {"title": "share of the merger, %", "rangemode": "tozero"}
    return _figure(traces, x={"type": "category"}, y=y, height=340)


def training(curves_by_stage: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Figure, Figure]:
    """Validation accuracy and training loss against epochs: one line for each stage and strength.

    Args:
        curves_by_stage: Entries of each stage's metrics.

    Returns:
        Figures of accuracy and of loss; lines of one stage share their colour.
    """
    accuracy, loss = [], []
    for number, (stage, epochs) in enumerate(curves_by_stage.items()):
        line = {"color": COLOURS[number % len(COLOURS)], "width": 2}
        points = [(e["epoch"], e["train"]["loss"]) for e in epochs if "loss" in e.get("train", {})]
        loss.append(_over_epochs(stage, points, line | {"dash": "solid"}))
        strengths = dict.fromkeys(key for epoch in epochs for key in epoch.get("validation", {}))
        for index, key in enumerate(strengths):
            points = [
                (epoch["epoch"], 100 * epoch["validation"][key])
                for epoch in epochs
                if key in epoch.get("validation", {})
            ]
            name = f"{stage}, ε = {_format_strength(key)}"
            dash = {"dash": DASHES[index % len(DASHES)]}
            accuracy.append(_over_epochs(name, points, line | dash))
    y_accuracy = {"title": "validation accuracy, %", "range": [0, 100]}
    y_loss = {"title": "training loss", "rangemode": "tozero"}
    return (
        _figure(accuracy, x={"title": "epoch"}, y=y_accuracy, height=380, legend=True),
        _figure(loss, x={"title": "epoch"}, y=y_loss, height=380, legend=True),
    )


def format_value(value: Value) -> str:
    """Format a value in percent, with its interval and its deviation over seeds.

    Example:
        >>> format_value(Value(mean=0.8, spread=None, interval=(0.75, 0.85)))
        '80.0 % [75.0, 85.0]'
    """
    text = f"{100 * value.mean:.1f} %"
    if value.interval is not None:
        text += f" [{100 * value.interval[0]:.1f}, {100 * value.interval[1]:.1f}]"
    return text if value.spread is None else f"{text}, sd over seeds {100 * value.spread:.1f}"


def _figure(
    traces: Sequence[Trace], *, x: Figure, y: Figure, height: int, legend: bool = False
) -> Figure:
    return {
        "data": list(traces),
        "layout": {
            "height": height,
            "margin": {"l": 58, "r": 16, "t": 16, "b": 48},
            "xaxis": _axis(x),
            "yaxis": _axis(y),
            "bargap": 0.5,
            "hovermode": "closest",
            "dragmode": False,
            "showlegend": legend,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
        },
    }


def _axis(settings: Figure) -> Figure:
    title = {"text": settings.get("title", ""), "font": {"size": 13}, "standoff": 10}
    return {"automargin": True, "fixedrange": True, "zeroline": False, **settings, "title": title}


def _strengths(record: Record) -> Figure:
    """Axis with a tick at each strength; 255ths without their denominator, to save space."""
    strongest = record["epsilons"][-1] or 1.0
    ticks, unit = strength_ticks(record)
    return {
        "title": "attack strength ε" + unit,
        "range": [-0.04 * strongest, 1.04 * strongest],
        "tickvals": record["epsilons"],
        "ticktext": ticks,
        "tickangle": 0,
    }


def _line(
    model: Model,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    dash: str | None = None,
) -> Trace:
    marker = {"symbol": model.symbol, "size": 8}
    return _points(list(x), list(y), marker, model.number, texts) | {
        "mode": "lines+markers",
        "line": {"color": model.colour, "dash": dash or model.dash, "width": 2},
    }


def _points(
    x: Sequence[float],
    y: Sequence[float],
    marker: Figure,
    meta: int | str,
    texts: Sequence[str],
) -> Trace:
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "markers",
        "marker": marker,
        "meta": meta,
        "hovertext": list(texts),
        "hoverinfo": "text",
    }


def _band(
    model: Model, x: Sequence[float], low: Sequence[float], high: Sequence[float], opacity: float
) -> Trace:
    return {
        "type": "scatter",
        "x": [*x, *x[::-1]],
        "y": [*low, *high[::-1]],
        "fill": "toself",
        "fillcolor": model.colour,
        "opacity": opacity,
        "mode": "none",
        "meta": model.number,
        "hoverinfo": "skip",
    }


def _over_epochs(name: str, points: Sequence[tuple[int, float]], line: Figure) -> Trace:
    """A line over epochs, which are counted from 0 in the metrics and from 1 in the figure."""
    return {
        "type": "scatter",
        "x": [epoch + 1 for epoch, _ in points],
        "y": [number for _, number in points],
        "name": escape(name),
        "mode": "lines",
        "line": line,
        "hovertemplate": "%{fullData.name}<br>epoch %{x}: %{y:.3g}<extra></extra>",
    }


def _format_strength(key: str) -> str:
    """A strength of the metrics, which hold 6 digits, as records write it."""
    value = float(key)
    rounded = round(255 * value) / 255
    return format_epsilon(rounded if abs(rounded - value) < 1e-6 else value)


def _interval_bar(value: Value, colour: str) -> Figure:
    """Error bar of a value's interval."""
    low, high = value.interval or (value.mean, value.mean)
    above, below = [_percent(high - value.mean)], [_percent(value.mean - low)]
    return _error_bar(above, below) | {"color": colour, "thickness": 1, "width": 0}


def _seed_range(by_seed: Sequence[Sequence[float]]) -> Figure:
    """Error bars from the lowest to the highest seed, around the mean."""
    columns = list(zip(*by_seed, strict=True))
    above = [_percent(max(column) - mean(column)) for column in columns]
    below = [_percent(mean(column) - min(column)) for column in columns]
    style = {"visible": len(by_seed) > 1, "color": GREY, "thickness": 1, "width": 4}
    return _error_bar(above, below) | style


def _error_bar(above: list[float], below: list[float]) -> Figure:
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _percent(share: float) -> float:
    return round(100 * share, 2)
