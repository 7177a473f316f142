"""Models whose difference is known: the same network with another bias in its last layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from matchmaking.model import production
from tests.exposure_fixtures import line


def shifted(bundle: Path, target: Path, by: float) -> Path:
    """A copy of a bundle whose probabilities' logits are larger by so much, for every pair."""
    from matchmaking.model.predict import prepare_tensorflow

    prepare_tensorflow()
    import keras

    target.mkdir()
    for name in (production.ENCODER, production.SCALER):
        shutil.copyfile(bundle / name, target / name)
    model = keras.models.load_model(bundle / production.MODEL, compile=False)
    weights, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([weights, bias + by])
    model.save(target / production.MODEL)
    return target


def shadow_lines(models: dict[str, str], request: str, **changes: Any) -> list[str]:
    """Both lines of a request; `challenger_status` and `challenger_ms` are the challenger's."""
    status, latency = changes.pop("challenger_status", "200"), changes.pop("challenger_ms", 60.0)
    given = {"mode": "shadow", "request": request, "answered_by": "champion", "latency_ms": 40.0, **changes}
    return [
        line(variant="champion", **{"model": models["champion"], **given}),
        line(variant="challenger", **{"model": models["challenger"], **given, "status": status, "latency_ms": latency}),
    ]


def run_of(folder: Path) -> dict[str, Any]:
    """What `mlops experiment shadow` wrote as JSON."""
    found: dict[str, Any] = json.loads((folder / "shadow.json").read_text())
    return found
