"""Figures of the HTML report, as plotly's JSON. Colours of paper and ink are the page's."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain
from statistics import mean
from typing import Any

import plotly.graph_objects as go

from equipoise.records.epsilon import format_epsilon
from equipoise.report.html.models import COLOURS, DASHES, Model, Value
from equipoise.report.table import Record, strength_marks

Figure = dict[str, Any]
PUBLISHED = "published"
"""What the traces of published numbers are of; those of a model are of its number."""
_WAYS = {
    "through_generator": ("attacked through the generator", "solid"),
    "through_robust_branch": ("attacked through the fixed robust branch", "dot"),
}


def curves(models: Sequence[Model]) -> Figure:
    """Accuracy over strength: one line a model, its intervals as a band."""
    record = models[0].records[0]
    epsilons, traces = record["epsilons"], []
    for model in models:
        values = model.accuracies
        intervals = [each.interval or (each.mean, each.mean) for each in values]
        low, high = ([_percent(end) for end in ends] for ends in zip(*intervals, strict=True))
        traces += [
            _band(model, epsilons, low, high, min(0.12, 0.6 / len(models))),
            _line(
                model,
                epsilons,
                [_percent(each.mean) for each in values],
                [
                    f"<b>{escape(model.name)}</b><br>ε = {written}: {format_value(each)}"
                    for written, each in zip(record["epsilons_written"], values, strict=True)
                ],
            ),
        ]
    y = {"title": "accuracy, %", "range": [0, 100]}
    return _figure(traces, x=_strengths(record), y=y, height=420)


def scatter(models: Sequence[Model], published: Sequence[Mapping[str, Any]]) -> Figure:
    """Clean against robust accuracy at the strongest strength, with intervals both ways."""
    strongest = models[0].records[0]["epsilons_written"][-1]
    traces = []
    for model in models:
        clean, robust = model.accuracies[0], model.accuracies[-1]
        text = f"<b>{escape(model.name)}</b><br>clean: {format_value(clean)}<br>ε = {strongest}: "
        traces.append(
            go.Scatter(
                x=[_percent(clean.mean)],
                y=[_percent(robust.mean)],
                error_x=_error(clean, model.colour),
                error_y=_error(robust, model.colour),
                marker={"color": model.colour, "symbol": model.symbol, "size": 12},
                mode="markers",
                meta=model.number,
                hovertext=[text + format_value(robust)],
                hoverinfo="text",
            )
        )
    if published:
        texts = [
            f"<b>{escape(each['model'])}</b>, published<br>clean {100 * each['clean']:.1f} %, "
            f"ε = {strongest} {100 * each['robust']:.1f} % ({each['attack']})"
            f"<br>{each['network']}<br>{each['source']}"
            for each in published
        ]
        traces.append(
            go.Scatter(
                x=[_percent(each["clean"]) for each in published],
                y=[_percent(each["robust"]) for each in published],
                marker={"color": "#7F7F7F", "symbol": "circle-open", "size": 9},
                mode="markers",
                meta=PUBLISHED,
                hovertext=texts,
                hoverinfo="text",
            )
        )
    x = {"title": "clean accuracy, %"}
    return _figure(traces, x=x, y={"title": f"accuracy at ε = {strongest}, %"}, height=420)


def weights(models: Sequence[Model]) -> Figure | None:
    """Mean fusing weight of the robust branch over strength, plus and minus its deviation over
    images.

    Args:
        models: All models; those without a weight generator are left out.

    Returns:
        A figure, or ``None`` if no model has one.

    Source:
        AFA Fig. 6.
    """
    traces = []
    for model in models:
        found = model.model_internals("fusing_weight")
        for way, (words, dash) in _WAYS.items() if found else ():
            points = list(zip(*(record[way] for record in found), strict=True))
            means = [mean(each["mean"] for each in seeds) for seeds in points]
            spreads = [mean(each["std"] for each in seeds) for seeds in points]
            epsilons = model.records[0]["epsilons"]
            texts = [
                f"<b>{escape(model.name)}</b><br>{words}<br>ε = {written}: W1 = {centre:.3f} "
                f"(deviation over images {spread:.3f})"
                for written, centre, spread in zip(
                    model.records[0]["epsilons_written"], means, spreads, strict=True
                )
            ]
            if way == "through_generator":
                low = [max(0.0, a - b) for a, b in zip(means, spreads, strict=True)]
                high = [min(1.0, a + b) for a, b in zip(means, spreads, strict=True)]
                traces.append(_band(model, epsilons, low, high, 0.12))
            traces.append(_line(model, epsilons, means, texts, dash=dash))
    if not traces:
        return None
    y = {"title": "W1, weight of the robust branch"}
    return _figure(traces, x=_strengths(models[0].records[0]), y=y, height=380)


def weights_per_image(models: Sequence[Model]) -> Figure | None:
    """The fusing weight of single images over strength: one faint line an image.

    Args:
        models: All models; of each, the first record that holds the weights of single images.

    Returns:
        A figure, or ``None`` if no record holds them.
    """
    traces = []
    for model in models:
        for found in model.model_internals("fusing_weight")[:1]:
            by_strength = [point.get("per_image", []) for point in found["through_generator"]]
            images = list(zip(*by_strength, strict=True))
            if images:
                epsilons = model.records[0]["epsilons"]
                traces.append(
                    go.Scatter(
                        x=[*epsilons, None] * len(images),
                        y=list(chain.from_iterable([*each, None] for each in images)),
                        mode="lines",
                        line={"color": model.colour, "width": 0.7},
                        opacity=0.35,
                        meta=model.number,
                        name=escape(model.name),
                        hovertemplate="%{fullData.name}, one image: W1 = %{y:.3f}<extra></extra>",
                    )
                )
    if not traces:
        return None
    y = {"title": "W1 of each image"}
    return _figure(traces, x=_strengths(models[0].records[0]), y=y, height=380)


def importance(models: Sequence[Model], members: Mapping[int, Sequence[str]]) -> Figure | None:
    """Each member's share of a stack's merger.

    Args:
        models: All models; those without members are left out.
        members: By model number, what its members are called, where that is known.

    Returns:
        A figure, or ``None`` if no model is a stack.

    Source:
        AFS Fig. 4(b).
    """
    traces = []
    for model in models:
        found = model.model_internals("importance")
        if not found:
            continue
        shares = [mean(each) for each in zip(*found, strict=True)]
        names = [f"member {number}" for number in range(len(shares))]
        if model.number in members:
            pairs = zip(names, members[model.number], strict=True)
            names = [f"{name}<br>{escape(called)}" for name, called in pairs]
        traces.append(
            go.Bar(
                x=names,
                y=[_percent(share) for share in shares],
                marker={"color": model.colour},
                error_y=_seeds(found),
                meta=model.number,
                hovertext=[
                    f"<b>{escape(model.name)}</b><br>{name}: {100 * share:.1f} % of the merger"
                    for name, share in zip(names, shares, strict=True)
                ],
                hoverinfo="text",
            )
        )
    if not traces:
        return None
    y = {"title": "share of the merger, %", "rangemode": "tozero"}
    return _figure(traces, x={"type": "category"}, y=y, height=340)


def training(curves_by_stage: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Figure, Figure]:
    """Validation accuracy and training loss over epochs, one line a stage and strength.

    Args:
        curves_by_stage: Entries of each stage's metrics.

    Returns:
        Two figures; lines of one stage share their colour.
    """
    accuracy, loss = [], []
    for number, (stage, entries) in enumerate(curves_by_stage.items()):
        colour = COLOURS[number % len(COLOURS)]
        loss.append(_epochs(stage, entries, "train", "loss", colour, "solid", 1))
        strengths = dict.fromkeys(at for entry in entries for at in entry.get("validation", {}))
        for place, at in enumerate(strengths):
            dash = DASHES[place % len(DASHES)]
            accuracy.append(_epochs(stage, entries, "validation", at, colour, dash, 100))
    return (
        _figure(
            accuracy,
            x={"title": "epoch"},
            y={"title": "validation accuracy, %", "range": [0, 100]},
            height=380,
            legend=True,
        ),
        _figure(
            loss,
            x={"title": "epoch"},
            y={"title": "training loss", "rangemode": "tozero"},
            height=380,
            legend=True,
        ),
    )


def format_value(found: Value) -> str:
    """A value in words: percent, interval, deviation over seeds."""
    text = f"{100 * found.mean:.1f} %"
    if found.interval is not None:
        text += f" [{100 * found.interval[0]:.1f}, {100 * found.interval[1]:.1f}]"
    return text if found.spread is None else f"{text}, sd over seeds {100 * found.spread:.1f}"


def _figure(
    traces: Sequence[Any], *, x: Figure, y: Figure, height: int, legend: bool = False
) -> Figure:
    figure = go.Figure(
        data=list(traces),
        layout={
            "template": go.layout.Template(),
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
    )
    found: Figure = json.loads(figure.to_json())
    return found


def _axis(settings: Figure) -> Figure:
    title = {"text": settings.get("title", ""), "font": {"size": 13}, "standoff": 10}
    return {"automargin": True, "fixedrange": True, "zeroline": False, **settings, "title": title}


def _strengths(record: Record) -> Figure:
    """An axis whose ticks are the strengths; 255ths without their denominator, for narrow pages."""
    strongest = record["epsilons"][-1] or 1.0
    marks, unit = strength_marks(record)
    return {
        "title": "attack strength ε" + unit,
        "range": [-0.04 * strongest, 1.04 * strongest],
        "tickvals": record["epsilons"],
        "ticktext": marks,
        "tickangle": 0,
    }


def _line(
    model: Model,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    dash: str | None = None,
) -> go.Scatter:
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers",
        line={"color": model.colour, "dash": dash or model.dash, "width": 2},
        marker={"symbol": model.symbol, "size": 8},
        meta=model.number,
        hovertext=list(texts),
        hoverinfo="text",
    )


def _band(
    model: Model, x: Sequence[float], low: Sequence[float], high: Sequence[float], opacity: float
) -> go.Scatter:
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*low, *high[::-1]],
        fill="toself",
        fillcolor=model.colour,
        opacity=opacity,
        mode="none",
        meta=model.number,
        hoverinfo="skip",
    )


def _epochs(
    stage: str,
    entries: Sequence[Mapping[str, Any]],
    part: str,
    name: str,
    colour: str,
    dash: str,
    times: float,
) -> go.Scatter:
    points = [
        (each["epoch"] + 1, times * each[part][name])
        for each in entries
        if name in each.get(part, {})
    ]
    label = escape(stage if part == "train" else f"{stage}, ε = {_written(name)}")
    return go.Scatter(
        x=[epoch for epoch, _ in points],
        y=[number for _, number in points],
        name=label,
        mode="lines",
        line={"color": colour, "dash": dash, "width": 2},
        hovertemplate="%{fullData.name}<br>epoch %{x}: %{y:.3g}<extra></extra>",
    )


def _written(strength: str) -> str:
    """A strength of the metrics, which have 6 digits, as records write it."""
    value = float(strength)
    whole = round(255 * value) / 255
    return format_epsilon(whole if abs(whole - value) < 1e-6 else value)


def _error(found: Value, colour: str) -> Figure:
    low, high = found.interval or (found.mean, found.mean)
    return {
        "type": "data",
        "symmetric": False,
        "array": [_percent(high - found.mean)],
        "arrayminus": [_percent(found.mean - low)],
        "color": colour,
        "thickness": 1,
        "width": 0,
    }


def _seeds(found: Sequence[Sequence[float]]) -> Figure:
    """Lowest and highest over seeds, around the mean."""
    columns = list(zip(*found, strict=True))
    return {
        "type": "data",
        "visible": len(found) > 1,
        "symmetric": False,
        "array": [_percent(max(each) - mean(each)) for each in columns],
        "arrayminus": [_percent(mean(each) - min(each)) for each in columns],
        "color": "#7F7F7F",
        "thickness": 1,
        "width": 4,
    }


def _percent(share: float) -> float:
    return round(100 * share, 2)
