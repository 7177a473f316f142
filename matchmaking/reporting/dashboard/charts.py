"""The charts as Vega-Lite specifications, made with Altair: without data, which the page's script puts in by name.

What a mark means is told by its shape, its dashes or its place; colour repeats it. The colours are Okabe and Ito's,
which people without colour vision tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BLUE, VERMILION, GREEN, GREY, INK = "#0072b2", "#d55e00", "#007a5e", "#6b7580", "#1b1f24"
TINTS = ["#e6f0f7", "#f6efe4", "#e8f3ec", "#f3eaf3"]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
# of the series in the chart of production over time: colour, shape, dashes
SERIES = {
    "measured": (BLUE, "circle", [1, 0]),
    "measured so far": (BLUE, "square", [1, 0]),
    "estimated": (VERMILION, "triangle-up", [5, 3]),
    "held-out rows": (INK, "diamond", [1, 0]),
}
VERDICTS = {
    "promote": (GREEN, "triangle-up"),
    "hold": (GREY, "circle"),
    "reject": (VERMILION, "triangle-down"),
    "bootstrap": (BLUE, "diamond"),
}
STATES = {
    "FINISHED": (BLUE, "circle"),
    "RUNNING": (GREY, "triangle-right"),
    "FAILED": (VERMILION, "cross"),
    "KILLED": (VERMILION, "square"),
}


def specifications() -> dict[str, dict[str, Any]]:
    """Every chart's specification, by the id of its place in the page."""
    charts: dict[str, Callable[[], Any]] = {
        "live": _live,
        "drift": _drift,
        "candidates": _candidates,
        "rows": lambda: _by_run("value", "rows of the dataset", ",.0f"),
        "match-rate": lambda: _by_run("value", "match rate", ".1%"),
        "unseen": lambda: _by_run("value", "rows with an unknown category", ".1%"),
        "runs": _runs,
        "steps": _steps,
    }
    return {name: _finished(make(), name).to_dict() for name, make in charts.items()}


def _finished(chart: Any, name: str) -> Any:
    import altair as alt

    text = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": "#3b434c"}
    # these grow with their rows
    kind = "fit-x" if name in ("drift", "runs", "steps") else "fit"
    return (
        chart.properties(width="container", autosize={"type": kind, "contains": "padding"})
        .configure(font=FONT, padding=4)
        .configure_view(stroke=None)
        .configure_axis(**text, gridColor="#e4e7eb", domainColor="#b8bfc7", tickColor="#b8bfc7", labelOverlap=True)
        .configure_legend(
            orient="top",
            title=None,
            labelFontSize=12,
            symbolSize=90,
            columnPadding=14,
            labelLimit=220,
            columns=alt.ExprRef("width < 420 ? 2 : 0"),
        )
    )


def _source(name: str) -> Any:
    import altair as alt

    return alt.Chart(alt.NamedData(name))


def _time(field: str = "t") -> Any:
    import altair as alt

    return alt.X(f"{field}:T").scale(type="utc").title(None).axis(grid=False, tickCount=6)


def _frame() -> Any:
    """Nothing that is seen: the span that all charts over time have in common."""
    return _source("frame").mark_point(opacity=0, size=0).encode(x=_time())


def _tooltip(*fields: tuple[str, str]) -> list[Any]:
    import altair as alt

    return [alt.Tooltip(f"{field}:N").title(title) for field, title in fields]


def _scales(known: dict[str, Any]) -> tuple[Any, Any]:
    """The scales of colour and shape."""
    import altair as alt

    colour = alt.Scale(domain=list(known), range=[each[0] for each in known.values()])
    return colour, alt.Scale(domain=list(known), range=[each[1] for each in known.values()])


def _live() -> Any:
    import altair as alt

    colour, shape = _scales(SERIES)
    dash = alt.Scale(domain=list(SERIES), range=[each[2] for each in SERIES.values()])
    y = alt.Y("value:Q").scale(zero=False, nice=True).title(None).axis(format=".2f", tickCount=6)
    spans = (
        _source("reigns")
        .mark_rect(opacity=1)
        .encode(
            x=_time("start"),
            x2="end:T",
            fill=alt.Fill("tint:N").scale(None),
            href="url:N",
            tooltip=_tooltip(("name", "model"), ("how", "came by"), ("since", "since")),
        )
    )
    names = (
        _source("reigns")
        .mark_text(align="left", baseline="top", dx=3, dy=4, fontSize=11, color="#3b434c", clip=True)
        .encode(x=_time("start"), y=alt.value(0), text="label:N", href="url:N")
    )
    changes = (
        _source("changes")
        .mark_rule(strokeWidth=1.5, color="#3b434c")
        .encode(
            x=_time(),
            strokeDash=alt.StrokeDash("dash:N").scale(None),
            href="url:N",
            tooltip=_tooltip(("text", "change"), ("when", "on")),
        )
    )
    signs = (
        _source("changes")
        .mark_text(baseline="bottom", dy=-2, fontSize=12, color="#3b434c")
        .encode(x=_time(), y=alt.value(0), text="sign:N", href="url:N")
    )
    band = (
        _source("bands")
        .mark_area(opacity=0.2, interpolate="linear")
        .encode(
            x=_time(),
            y=alt.Y("low:Q").scale(zero=False).title(None),
            y2="high:Q",
            color=alt.Color("series:N").scale(colour).legend(symbolOpacity=1),
        )
    )
    lines = (
        _source("bands")
        .mark_line(strokeWidth=2)
        .encode(
            x=_time(),
            y=y,
            color=alt.Color("series:N").scale(colour).legend(symbolOpacity=1),
            strokeDash=alt.StrokeDash("series:N").scale(dash),
        )
    )
    points = (
        _source("points")
        .mark_point(filled=False, strokeWidth=1.6, fill="white")
        .encode(
            x=_time(),
            y=y,
            color=alt.Color("series:N").scale(colour).legend(symbolOpacity=1),
            shape=alt.Shape("series:N").scale(shape),
            size=alt.Size("size:Q").scale(None),
            href="url:N",
            tooltip=_tooltip(
                ("series", "which"),
                ("window", "window"),
                ("text", "value"),
                ("interval", "interval"),
                ("pairs", "pairs"),
                ("complete", "outcomes here"),
                ("model", "model"),
            ),
        )
    )
    return alt.layer(_frame(), spans, names, band, lines, changes, signs, points).properties(height=330)


def _drift() -> Any:
    import altair as alt

    x = (
        alt.X("t:O")
        .title(None)
        .sort(None)
        .axis(labelExpr="utcFormat(toNumber(datum.value), '%-d %b')", labelAngle=-45, ticks=False, domain=False)
    )
    y = alt.Y("column:N").title(None).sort(None).axis(ticks=False, domain=False, labelLimit=150)
    tooltip = _tooltip(
        ("column", "column"), ("run", "run"), ("statistic", "distance"), ("threshold", "threshold"), ("said", "drifted")
    )
    cells = (
        _source("cells")
        .mark_rect(stroke="white", strokeWidth=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("ratio:Q")
            .scale(type="threshold", domain=[0.5, 1, 1.5], range=["#eff3f6", "#c3d9e8", "#f0a05a", "#a63603"])
            .legend(title="× threshold", gradientLength=100),
            href="url:N",
            tooltip=tooltip,
        )
    )
    marks = (
        _source("cells")
        .mark_text(fontSize=11, color="black")
        .encode(x=x, y=y, text="sign:N", href="url:N", tooltip=tooltip)
    )
    return alt.layer(cells, marks).properties(height={"step": 20})


def _candidates() -> Any:
    import altair as alt

    colour, shape = _scales(VERDICTS)
    y = alt.Y("value:Q").title("candidate minus production")
    tooltip = _tooltip(
        ("run", "run"), ("verdict", "verdict"), ("text", "difference"), ("interval", "interval"), ("need", "margin")
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color="#3b434c").encode(y="zero:Q")
    ranges = (
        _source("differences")
        .mark_rule(strokeWidth=2)
        .encode(
            x=_time(),
            y=alt.Y("low:Q").title("candidate minus production"),
            y2="high:Q",
            color=alt.Color("verdict:N").scale(colour),
            href="url:N",
            tooltip=tooltip,
        )
    )
    margins = (
        _source("differences")
        .mark_tick(color=INK, thickness=1.5, size=14, orient="horizontal")
        .encode(x=_time(), y=alt.Y("margin:Q"), tooltip=tooltip)
    )
    points = (
        _source("differences")
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=_time(),
            y=y,
            color=alt.Color("verdict:N").scale(colour),
            shape=alt.Shape("verdict:N").scale(shape),
            href="url:N",
            tooltip=tooltip,
        )
    )
    return alt.layer(_frame(), zero, ranges, margins, points).properties(height=240)


def _by_run(field: str, what: str, number: str) -> Any:
    import altair as alt

    drawn = (
        _source("points")
        .mark_line(point={"size": 30, "filled": True}, color=BLUE, strokeWidth=1.2)
        .encode(
            x=_time(),
            y=alt.Y(f"{field}:Q").title(None).scale(zero=False, nice=True).axis(format=number, tickCount=4),
            href="url:N",
            tooltip=_tooltip(("run", "run"), ("text", what)),
        )
    )
    return alt.layer(_frame(), drawn).properties(height=120)


def _runs() -> Any:
    import altair as alt

    colour, shape = _scales(STATES)
    unwell = "datum.status === 'FAILED' || datum.status === 'KILLED'"
    drawn = (
        _source("points")
        .mark_point(filled=True, opacity=0.9, strokeWidth=1)
        .encode(
            x=_time(),
            y=alt.Y("pipeline:N").title(None).sort(None),
            # not by the width: a legend that grows later is cut off above rows of a fixed height
            color=alt.Color("status:N").scale(colour).legend(columns=2),
            shape=alt.Shape("status:N").scale(shape),
            # among circles that touch each other another shape is seen by its edge, without colour too
            stroke=alt.condition(unwell, alt.value("white"), alt.value("transparent")),
            size=alt.condition(unwell, alt.value(130), alt.value(70)),
            href="url:N",
            tooltip=_tooltip(("run", "run"), ("status", "state"), ("took", "took"), ("reason", "reason")),
        )
    )
    return alt.layer(_frame(), drawn).properties(height={"step": 26})


def _steps() -> Any:
    import altair as alt

    x = alt.X("seconds:Q").title("seconds").axis(grid=True, tickCount=6)
    y = alt.Y("step:N").title(None).sort(None)
    tooltip = _tooltip(("run", "run"), ("step", "step"), ("text", "took"))
    every = (
        _source("points")
        .mark_tick(thickness=1.5, size=14, opacity=0.45, color=GREY)
        .encode(x=x, y=y, href="url:N", tooltip=tooltip)
    )
    newest = (
        _source("newest")
        .mark_point(filled=True, size=80, color=BLUE, opacity=1)
        .encode(x=x, y=y, href="url:N", tooltip=tooltip)
    )
    return alt.layer(every, newest).properties(height={"step": 22})
