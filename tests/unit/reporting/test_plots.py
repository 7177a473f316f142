"""The plots exist for what was measured, show it, and keep each model's colour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from matchmaking.reporting.plots import COLOURS, save_plots

CURVES = {
    "roc": [[0.0, 0.0], [0.05, 0.8], [0.3, 0.95], [1.0, 1.0]],
    "pr": [[0.0, 1.0], [0.7, 0.85], [0.9, 0.6], [1.0, 0.12]],
    "calibration": [[0.02, 0.01, 900], [0.5, 0.45, 40], [0.97, 0.96, 110]],
}
HISTORY = {
    "loss": [0.5, 0.3, 0.2],
    "val_loss": [0.5, 0.35, 0.4],
    "auc": [0.8, 0.9, 0.95],
    "val_auc": [0.8, 0.88, 0.87],
}


def metrics(**changes: Any) -> dict[str, Any]:
    confusion = {"tn": 900, "fp": 30, "fn": 20, "tp": 100}
    known = {"rows": 1_050, "positives": 120, "precision": 0.77, "recall": 0.83, "f1": 0.8, "roc_auc": 0.96}
    return {**known, "average_precision": 0.81, "ece": 0.02, "confusion": confusion, **changes}


def evaluation(production: dict[str, Any] | None, candidate: dict[str, Any] | None) -> dict[str, Any]:
    models = {"production": production, "candidate": candidate}
    return {**models, "curves": {name: CURVES for name, model in models.items() if model}}


def share_of(path: Path, model: str) -> float:
    """The share of pixels that have the model's colour exactly."""
    colour = tuple(bytes.fromhex(COLOURS[model][1:]))
    return float((np.asarray(Image.open(path).convert("RGB")) == colour).all(axis=-1).mean())


def test_both_models_are_on_every_plot(tmp_path: Path) -> None:
    paths = save_plots(evaluation(metrics(), metrics(f1=0.85)), tmp_path / "new", HISTORY)
    names = ["roc", "precision_recall", "calibration", "confusion_matrix", "training_curves"]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    for path in paths:
        assert Image.open(path).width == 800
        assert share_of(path, "candidate") > 0.0005, path.name
        assert (share_of(path, "production") > 0.0005) == (path.name != "training_curves.png"), path.name


@pytest.mark.parametrize(("present", "absent"), [("production", "candidate"), ("candidate", "production")])
def test_a_model_keeps_its_colour_when_alone(tmp_path: Path, present: str, absent: str) -> None:
    alone = evaluation(**{present: metrics(), absent: None})
    for path in save_plots(alone, tmp_path):
        assert share_of(path, present) > 0.0005 and share_of(path, absent) == 0, path.name


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    assert save_plots({}, tmp_path) == []
    assert save_plots({"production": None, "candidate": None, "curves": {}}, tmp_path, {"loss": []}) == []
    assert [p.name for p in save_plots({}, tmp_path, {"loss": [1.0]})] == ["training_curves.png"]
    undefined = metrics(roc_auc=None, average_precision=None, recall=None, f1=None)
    assert len(save_plots({"production": undefined, "curves": {}}, tmp_path)) == 4


def test_the_plots_show_the_numbers(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in save_plots(evaluation(metrics(), None), tmp_path)]
    assert [path.read_bytes() for path in save_plots(evaluation(metrics(), None), tmp_path)] == first
    changes = {"roc_auc": 0.9, "average_precision": 0.7, "ece": 0.1, "f1": 0.5}
    changed = [path.read_bytes() for path in save_plots(evaluation(metrics(**changes), None), tmp_path)]
    assert all(old != new for old, new in zip(first, changed, strict=True))
    # the curves themselves, not only the labels
    other = {
        "roc": [[0, 0], [1, 1]],
        "pr": [[0, 0.1], [1, 0.1]],
        "calibration": [[mean, 0.9, rows] for mean, _, rows in CURVES["calibration"]],
    }
    moved = save_plots({**evaluation(metrics(), None), "curves": {"production": other}}, tmp_path)
    assert [old != path.read_bytes() for old, path in zip(first, moved, strict=True)] == [
        True,
        True,
        True,
        False,
    ]


def test_the_module_imports_without_matplotlib() -> None:
    code = "import sys, matchmaking.reporting.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
