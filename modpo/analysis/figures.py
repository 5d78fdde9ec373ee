"""The report's figures as plain plotly JSON, drawn by the page itself. No figure holds text of prompts or responses."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Point = Mapping[str, Any]
Figure = dict[str, Any]

# One for each beta, in turn; readable on white and on near-black.
PALETTE = ("#3f7fd9", "#e0832b", "#27a387", "#b65fc4", "#d4526e", "#8f8b2a")
EXACT_COLOUR = "#8d939c"
PANEL_HEIGHT = 340
MAX_PANEL_COLUMNS = 3


@dataclass(frozen=True)
class Axis:
    """A quantity of a point along a figure's axis.

    Attributes:
        trained: estimate of the trained point, as `{value, low, high}`.
        exact: the exact optimum's value at the point's weights and beta, or None.
    """

    title: str
    trained: Callable[[Point], Mapping[str, float]]
    exact: Callable[[Point], float | None]


@dataclass(frozen=True)
class Panel:
    """One plot of a figure, in a cell of its grid counted from the top left."""

    x: Axis
    y: Axis
    row: int
    column: int


def front_figure(summary: Mapping[str, Any]) -> Figure:
    """Every pair of objectives against each other, in the lower triangle of a grid."""
    axes = [_objective_axis(objective) for objective in summary["objectives"]]
    panels = [
        Panel(x=axes[column], y=axes[row], row=row - 1, column=column)
        for row in range(1, len(axes))
        for column in range(row)
    ]
    return _figure(panels, evaluated_points(summary), height=max(460, PANEL_HEIGHT * (len(axes) - 1)))


def kl_figure(summary: Mapping[str, Any]) -> Figure:
    """KL to the reference against each objective: what a value was bought for."""
    kl = Axis("KL(π ‖ π_ref), nats", lambda point: point["kl"], lambda point: point["kl_exact_to_reference"])
    panels = [
        Panel(x=kl, y=_objective_axis(objective), row=index // MAX_PANEL_COLUMNS, column=index % MAX_PANEL_COLUMNS)
        for index, objective in enumerate(summary["objectives"])
    ]
    return _figure(panels, evaluated_points(summary), height=PANEL_HEIGHT * (panels[-1].row + 1))


def evaluated_points(summary: Mapping[str, Any]) -> list[Point]:
    """The points of the front: finished and measured."""
    return [point for point in summary["points"] if point["dominated"] is not None]


def _objective_axis(objective: Mapping[str, Any]) -> Axis:
    name = objective["name"]
    return Axis(
        title=f"{name} (self-scored)" if objective["self_scored"] else name,
        trained=lambda point: point["objectives"][name],
        exact=lambda point: (point["exact_objectives"] or {}).get(name),
    )


def _figure(panels: Sequence[Panel], points: Sequence[Point], *, height: int) -> Figure:
    rows, columns = (1 + max(getattr(panel, side) for panel in panels) for side in ("row", "column"))
    cells = [[""] * columns for _ in range(rows)]
    axes: dict[str, Any] = {}
    traces: list[dict[str, Any]] = []
    for number, panel in enumerate(panels, start=1):
        suffix = "" if number == 1 else str(number)
        cells[panel.row][panel.column] = f"x{suffix}y{suffix}"
        axes[f"xaxis{suffix}"] = {"title": {"text": panel.x.title}, "anchor": f"y{suffix}", "automargin": True}
        axes[f"yaxis{suffix}"] = {"title": {"text": panel.y.title}, "anchor": f"x{suffix}", "automargin": True}
        for trace in _traces(panel, points):
            traces.append({**trace, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": number == 1})
    layout = {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "grid": {"rows": rows, "columns": columns, "subplots": cells, "xgap": 0.16, "ygap": 0.28},
        **axes,
    }
    return {"data": traces, "layout": layout}


def _traces(panel: Panel, points: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """The exact optimum below, then the trained points of each beta: kept ones filled, dominated ones hollow."""
    by_beta = {beta: list(group) for beta, group in groupby(sorted(points, key=_beta), key=_beta)}
    for index, (beta, group) in enumerate(by_beta.items()):
        suffix = f", beta {beta:g}" if len(by_beta) > 1 else ""
        exact = [point for point in group if panel.x.exact(point) is not None and panel.y.exact(point) is not None]
        if exact:
            yield _exact_trace(panel, exact, name=f"exact optimum{suffix}")
        for dominated, name, symbol in ((False, "trained", "circle"), (True, "dominated", "circle-open")):
            kept = [point for point in group if point["dominated"] is dominated]
            if kept:
                colour = PALETTE[index % len(PALETTE)]
                marker = {"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}}
                yield _trained_trace(panel, kept, name=f"{name}{suffix}", marker=marker)


def _beta(point: Point) -> float:
    return float(point["beta"])


def _exact_trace(panel: Panel, points: Sequence[Point], *, name: str) -> dict[str, Any]:
    # Only for two objectives is the front a line.
    mode = "lines+markers" if len(points[0]["weights"]) == 2 else "markers"
    places = sorted((panel.x.exact(point), panel.y.exact(point), hover_text(point)) for point in points)
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "legendgroup": name,
        "x": [x for x, _, _ in places],
        "y": [y for _, y, _ in places],
        "line": {"color": EXACT_COLOUR, "dash": "dot", "width": 1.5},
        "marker": {"symbol": "diamond-open", "size": 8, "color": EXACT_COLOUR},
        "text": [f"exact optimum of<br>{text}" for _, _, text in places],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _trained_trace(panel: Panel, points: Sequence[Point], *, name: str, marker: dict[str, Any]) -> dict[str, Any]:
    x, y = ([axis.trained(point) for point in points] for axis in (panel.x, panel.y))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "legendgroup": name,
        "x": [estimate["value"] for estimate in x],
        "y": [estimate["value"] for estimate in y],
        "error_x": _error_bars(x, marker["color"]),
        "error_y": _error_bars(y, marker["color"]),
        "marker": marker,
        "text": [hover_text(point) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _error_bars(estimates: Sequence[Mapping[str, float]], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, estimate["high"] - estimate["value"]) for estimate in estimates],
        "arrayminus": [max(0.0, estimate["value"] - estimate["low"]) for estimate in estimates],
        "color": colour,
        "thickness": 1,
        "width": 0,
    }


def hover_text(point: Point) -> str:
    """Weights, values, KL and J_w. Plotly reads some HTML in hover texts, so what is not a number is escaped."""
    return "<br>".join(
        (
            f"<b>{html.escape(point['trial_id'])}</b>",
            "weights " + ", ".join(f"{name} {weight:.3g}" for name, weight in point["weights"].items()),
            *(f"{name} {estimate['value']:.4g}" for name, estimate in point["objectives"].items()),
            f"KL {point['kl']['value']:.4g} nats",
            f"J_w {point['j_w']['value']:.4g}",
            f"primary {point['primary']}, beta {point['beta']:g}, seed {point['seed']}",
        )
    )
