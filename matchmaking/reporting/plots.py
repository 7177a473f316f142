"""The plots people look at: ROC, precision-recall, calibration, confusion matrix, training curves.

Everything is drawn from `evaluation.json`, so no plot needs the scores themselves.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from matchmaking.evidence.metrics import BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One colour a model, the same everywhere. Okabe & Ito (2008), "Color Universal Design": told apart under the
# common colour-vision deficiencies.
COLOURS = {"production": "#0072B2", "candidate": "#D55E00"}
STYLES = {"production": "-", "candidate": "--"}  # and without any colour
GREY = "#6b6b6b"
# 8 x 6 inches at 100 dpi: 800 px wide, its text at reading size
SIZE, DPI = (8.0, 6.0), 100


def save_plots(evaluation: dict[str, Any], out_dir: Path, history: dict[str, list[float]] | None = None) -> list[Path]:
    """Draws each plot that the evaluation has the numbers for.

    Args:
        evaluation: what `evaluation.json` holds: metrics of "production" and "candidate" (either may be
            None or absent) and their "curves".
        out_dir: where the PNG files go; made if absent.
        history: values by epoch, as Keras names them: "loss", "val_loss", "auc", "val_auc", ...

    Returns:
        The files, 800 px wide: roc.png, precision_recall.png, calibration.png and confusion_matrix.png where
        there is a model, training_curves.png where there is a history.
    """
    models = {name: evaluation[name] for name in COLOURS if evaluation.get(name)}
    curves = {name: (evaluation.get("curves") or {}).get(name) or {} for name in models}
    figures: dict[str, Figure] = {}
    if models:
        figures["roc"] = _roc(models, curves)
        figures["precision_recall"] = _precision_recall(models, curves)
        figures["calibration"] = _calibration(models, curves)
        figures["confusion_matrix"] = _confusion(models)
    if history and any(history.values()):
        figures["training_curves"] = _training(history)

    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [out_dir / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        path.write_bytes(as_png(figure))
    return paths


LIVE_METRICS = ("average_precision", "recall")


def save_live(windows: pd.DataFrame, out_dir: Path) -> list[Path]:
    """Draws the series of `observe`: what was measured, and what was estimated before.

    Args:
        windows: `windows.parquet`, see `live.record.COLUMNS`.
        out_dir: where the PNG files go; made if absent.

    Returns:
        live_average_precision.png and live_recall.png, of those that have a value at all.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for metric in LIVE_METRICS:
        rows = windows[(windows["slice"] == "") & (windows["metric"] == metric)]
        if rows["value"].notna().any() or rows["estimate"].notna().any():
            paths.append(out_dir / f"live_{metric}.png")
            paths[-1].write_bytes(as_png(_live(rows, metric.replace("_", " "))))
    return paths


def _live(rows: pd.DataFrame, name: str) -> Figure:
    """Measured windows as filled points with bars, estimates as hollow ones with a dashed line and a hatched band.

    What is measured on some of a window's outcomes only is a cross: it may still change.
    """
    figure = new_figure(f"{name[:1].upper()}{name[1:]} on the pairs of now", (8.0, 4.8))
    axes = new_axes(figure, "", name)
    middle = rows["start"] + (rows["end"] - rows["start"]) / 2
    given = rows["estimate"].notna()
    if given.any():
        blue = COLOURS["production"]
        axes.fill_between(
            middle[given], rows.loc[given, "estimate_low"], rows.loc[given, "estimate_high"],
            facecolor="none", edgecolor=blue, alpha=0.35, hatch="////", linewidth=0,
        )  # fmt: skip
        axes.plot(
            middle[given], rows.loc[given, "estimate"], color=blue, linestyle="--", marker="o", markersize=5,
            markerfacecolor="white", linewidth=1.4, label="estimated when the window ended",
        )  # fmt: skip
    there = rows["value"].notna()
    for chosen, marker, label in (
        (there & rows["measured"], "s", "measured"),
        (there & ~rows["measured"], "x", "on the outcomes so far"),
    ):
        part = rows[chosen]
        if len(part):
            spread = [part["value"] - part["low"], part["high"] - part["value"]]
            axes.errorbar(
                middle[chosen], part["value"], yerr=np.maximum(spread, 0), color="black", marker=marker, markersize=6,
                linestyle="none", elinewidth=1.2, capsize=2, label=label,
            )  # fmt: skip
    axes.legend(frameon=False, fontsize=11, loc="lower left")
    axes.tick_params(axis="x", rotation=30)
    return figure


def as_png(figure: Figure) -> bytes:
    """A figure as a PNG file, `DPI` pixels an inch; the same numbers give the same bytes."""
    out = io.BytesIO()
    # without the version of matplotlib
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()


def new_figure(title: str, size: tuple[float, float] = SIZE) -> Figure:
    """An empty figure, its title at the left; `size` in inches."""
    # Figure, not pyplot: nothing global, nothing to close, no GUI toolkit; saving a PNG uses Agg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold")
    return figure


def new_axes(figure: Figure, xlabel: str, ylabel: str, *where: Any) -> Axes:
    """Axes as all plots have them; `where` as matplotlib's `add_subplot` takes it."""
    axes = figure.add_subplot(*where)
    axes.set_xlabel(xlabel, fontsize=12)
    axes.set_ylabel(ylabel, fontsize=12)
    axes.tick_params(labelsize=11, colors=GREY, length=0)
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return axes


def unit_square(axes: Axes) -> None:
    """Both axes from 0 to 1, with a little room."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))


def _label(axes: Axes, name: str, text: str, place: int, x: float, y: float) -> None:
    """Names a line in its colour, in a corner that a good model's line leaves empty (axes coordinates)."""
    dash = "━━" if STYLES[name] == "-" else "╍╍"
    axes.text(
        x, y - 0.07 * place, f"{dash} {name}  {text}",
        transform=axes.transAxes, ha="right" if x > 0.5 else "left", va="center",
        color=COLOURS[name], fontsize=13, fontweight="bold",
    )  # fmt: skip


def _points(curve: dict[str, Any], key: str, columns: int) -> np.ndarray:
    return np.asarray(curve.get(key) or [], dtype=float).reshape(-1, columns)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _against(title: str, models: dict[str, Any], metric: str) -> str:
    """A title that says what is seen, with each model's number."""
    return f"{title}: " + ", ".join(f"{name} {_number(model.get(metric))}" for name, model in models.items())


def _roc(models: dict[str, Any], curves: dict[str, Any]) -> Figure:
    figure = new_figure(_against("ROC AUC", models, "roc_auc"))
    axes = new_axes(figure, "False positive rate", "True positive rate (recall)")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axes.text(0.5, 0.47, "a random guess", color=GREY, fontsize=11, rotation=36, rotation_mode="anchor", va="top")
    for place, (name, model) in enumerate(models.items()):
        points = _points(curves[name], "roc", 2)
        axes.plot(points[:, 0], points[:, 1], color=COLOURS[name], linestyle=STYLES[name], linewidth=2.2)
        _label(axes, name, f"AUC {_number(model.get('roc_auc'))}", place, 0.97, 0.16)
    unit_square(axes)
    return figure


def _precision_recall(models: dict[str, Any], curves: dict[str, Any]) -> Figure:
    figure = new_figure(_against("Average precision", models, "average_precision"))
    axes = new_axes(figure, "Recall", "Precision")
    first = next(iter(models.values()))
    if first.get("rows"):
        rate = first["positives"] / first["rows"]
        axes.axhline(rate, color=GREY, linewidth=1, linestyle=":")
        axes.text(0.03, rate + 0.012, f"a random guess: {rate:.1%} are matches", color=GREY, fontsize=11)
    for place, (name, model) in enumerate(models.items()):
        points = _points(curves[name], "pr", 2)
        axes.plot(points[:, 0], points[:, 1], color=COLOURS[name], linestyle=STYLES[name], linewidth=2.2)
        # the one threshold the service uses
        if model.get("precision") is not None and model.get("recall") is not None:
            axes.plot(
                model["recall"],
                model["precision"],
                "o",
                color=COLOURS[name],
                markersize=9,
                markeredgecolor="white",
            )
        _label(axes, name, f"AP {_number(model.get('average_precision'))}", place, 0.03, 0.37)
    axes.text(
        0.03, 0.37 - 0.07 * len(models), "● at the service's threshold, p = 0.5",
        transform=axes.transAxes, va="center", color=GREY, fontsize=11,
    )  # fmt: skip
    unit_square(axes)
    return figure


def _calibration(models: dict[str, Any], curves: dict[str, Any]) -> Figure:
    figure = new_figure(_against("Expected calibration error", models, "ece"), (8.0, 7.5))
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    axes = new_axes(figure, "", "Share that matched", grid[0])
    below = new_axes(figure, "Predicted match probability", "Pairs (log)", grid[1])
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axes.text(0.97, 0.05, "dotted: perfectly calibrated", color=GREY, fontsize=11, ha="right")
    width = 0.8 / BINS / len(models)
    for place, (name, model) in enumerate(models.items()):
        mean, rate, count = _points(curves[name], "calibration", 3).T
        axes.plot(mean, rate, color=COLOURS[name], linestyle=STYLES[name], linewidth=2.2, marker="o")
        centre = (np.minimum(np.floor(mean * BINS), BINS - 1) + 0.5) / BINS
        below.bar(centre + (place - (len(models) - 1) / 2) * width, count, width=width, color=COLOURS[name])
        _label(axes, name, f"ECE {_number(model.get('ece'))}", place, 0.03, 0.95)
    unit_square(axes)
    below.set_xlim(-0.01, 1.01)
    below.set_yscale("log")
    below.tick_params(which="minor", length=0)
    below.set_ylim(bottom=0.8)  # so that a bar of one pair is seen
    return figure


def _confusion(models: dict[str, Any]) -> Figure:
    figure = new_figure(_against("f1 at p = 0.5", models, "f1"), (8.0, 4.8 if len(models) == 2 else 6.0))
    for place, (name, model) in enumerate(models.items(), start=1):
        cells = model["confusion"]
        counts = np.array([[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes = new_axes(figure, "Predicted", "Actual" if place == 1 else "", 1, len(models), place)
        axes.grid(visible=False)
        # white to the model's colour
        from matplotlib.colors import LinearSegmentedColormap

        axes.imshow(shares, cmap=LinearSegmentedColormap.from_list(name, ["white", COLOURS[name]]), vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            axes.text(
                column, row, f"{count:,}\n{share:.1%} of row",
                ha="center", va="center", fontsize=13, color="white" if share > 0.6 else "black",
            )  # fmt: skip
        axes.set_xticks([0, 1], ["no match", "match"])
        axes.set_yticks([0, 1], ["no match", "match"], rotation=90, va="center")
        axes.set_title(name, fontsize=13, fontweight="bold", color=COLOURS[name])
    return figure


def _training(history: dict[str, list[float]]) -> Figure:
    """One panel a metric; training and validation in it, and the epoch with the lowest validation loss."""
    metrics = [name for name, values in history.items() if values and not name.startswith("val_")]
    metrics = [name for name in metrics if name == "loss" or f"val_{name}" in history][:4] or metrics[:4]
    best = int(np.argmin(history["val_loss"])) + 1 if history.get("val_loss") else None
    title = f"Training: {len(history[metrics[0]])} epochs"
    if best:
        title += f", lowest validation loss {min(history['val_loss']):.4f} at {best}"
    rows = (len(metrics) + 1) // 2 if len(metrics) > 1 else 1
    figure = new_figure(title, (8.0, max(4.5, 3.4 * rows)))
    for place, name in enumerate(metrics, start=1):
        axes = new_axes(figure, "Epoch", "", rows, min(len(metrics), 2), place)
        axes.set_title(name.replace("_", " "), fontsize=12, loc="left")
        for key, label, style in ((name, "training", ":"), (f"val_{name}", "validation", "-")):
            values = history.get(key) or []
            if not values:
                continue
            colour = GREY if label == "training" else COLOURS["candidate"]
            axes.plot(range(1, len(values) + 1), values, color=colour, linestyle=style, linewidth=2, label=label)
        if best:
            axes.axvline(best, color=GREY, linewidth=1)
        axes.legend(frameon=False, fontsize=11, labelcolor="linecolor")
        axes.locator_params(axis="x", integer=True)
    return figure
