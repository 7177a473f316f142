"""A service that behaves as production's does: Flask, `POST /predict_match`, the three files as they are.

    python -m tests.services.match_service FOLDER PORT

An .h5 of dense layers, as production's is, is evaluated with numpy, and the fitted objects by what they hold, so that
it starts at once and two of them take 200 requests a second beside the tests; any other .h5 by Keras, traced once. A
file `control.json` in the folder makes it ill: `delay` (seconds a request), `fail` (a status), `pad` (characters more
in an answer), `crash` (it ends in the middle of the next request); or makes it say its `version` in a header.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# before numpy is imported: one thread a request is enough, and they are in each other's way
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import h5py
import joblib
import numpy as np
from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

Score = Callable[[np.ndarray], np.ndarray]
ACTIVATIONS: dict[str, Score] = {
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
DEFAULTS = {
    "preferred_language": "English",
    "urgency_level": 3,
    "budget": 15000,
    "case_complexity_score": 0.5,
    "experience": 5,
    "success_rate": 0.7,
    "rating": 4.0,
    "consultation_fee": 12000,
    "availability": 1,
}


def dense_model(path: Path) -> Score | None:
    """What a Sequential of dense layers computes; None for any other model."""
    steps: list[Score] = []
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])
        if config["class_name"] != "Sequential":
            return None
        for layer in config["config"]["layers"]:
            kind, given = layer["class_name"], layer["config"]
            found: dict[str, np.ndarray] = {}

            def note(_: str, item: Any, found: dict[str, np.ndarray] = found) -> None:
                if isinstance(item, h5py.Dataset):
                    found[item.name.rsplit("/", 1)[1].partition(":")[0]] = item[...].astype(np.float32)

            if given["name"] in file["model_weights"]:
                file["model_weights"][given["name"]].visititems(note)
            if kind == "Dense" and given["activation"] in ACTIVATIONS:
                act, w, b = ACTIVATIONS[given["activation"]], found["kernel"], found["bias"]
                steps.append(lambda x, act=act, w=w, b=b: act(x @ w + b))  # type: ignore[misc]
            elif kind == "BatchNormalization":
                scale = found["gamma"] / np.sqrt(found["moving_variance"] + given["epsilon"])
                shift = found["beta"] - found["moving_mean"] * scale
                steps.append(lambda x, scale=scale, shift=shift: x * scale + shift)  # type: ignore[misc]
            elif kind not in ("InputLayer", "Dropout"):
                return None

    def score(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float32)
        for step in steps:
            x = step(x)
        return x

    return score


def keras_model(path: Path) -> Score:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.models.load_model(path, compile=False)
    # traced once: called layer by layer a candidate takes fifty times as long
    inputs = tf.TensorSpec((1, model.input_shape[-1]), tf.float32)
    traced = tf.function(lambda x: model(x, training=False), input_signature=[inputs]).get_concrete_function()
    return lambda x: traced(tf.constant(x, tf.float32)).numpy()


def complete(payload: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**DEFAULTS, **payload}
    filled.setdefault("location", filled.get("client_city"))
    filled.setdefault("city", filled.get("lawyer_city", filled["location"]))
    return filled


def make_app(folder: Path) -> Flask:
    score = dense_model(folder / "lawyer_match_model.h5") or keras_model(folder / "lawyer_match_model.h5")
    encoder, scaler = joblib.load(folder / "encoder.pkl"), joblib.load(folder / "scaler.pkl")
    numbers, columns = list(scaler.feature_names_in_), list(encoder.feature_names_in_)
    sizes = [len(known) for known in encoder.categories_]
    places = {
        (name, str(value)): sum(sizes[:block]) + place
        for block, (name, known) in enumerate(zip(columns, encoder.categories_, strict=True))
        for place, value in enumerate(known)
    }
    control = folder / "control.json"
    app = Flask(__name__)

    @app.post("/predict_match")
    def predict_match() -> Response | tuple[Response, int]:
        ill = json.loads(control.read_text()) if control.exists() else {}
        if "delay" in ill:
            time.sleep(ill["delay"])
        if ill.get("crash"):
            os._exit(3)
        if "fail" in ill:
            return jsonify(error="ill"), ill["fail"]
        row = complete(request.get_json())
        if missing := [name for name in ("case_type", "specialization", "location") if row.get(name) is None]:
            return jsonify(error=f"missing: {', '.join(missing)}"), 400
        row |= {
            "budget_fee_ratio": row["budget"] / (row["consultation_fee"] + 1),
            "experience_success": row["experience"] * row["success_rate"],
            "urgency_complexity": row["urgency_level"] * row["case_complexity_score"],
            "rating_availability": row["rating"] * row["availability"],
            "budget_per_urgency": row["budget"] / (row["urgency_level"] + 1),
            "fee_rating_ratio": row["consultation_fee"] / (row["rating"] + 0.1),
        }
        inputs = np.zeros((1, sum(sizes) + len(numbers)))
        # a category that isn't known is all zeros, as handle_unknown="ignore" has it
        for name in columns:
            if (place := places.get((name, str(row[name])))) is not None:
                inputs[0, place] = 1
        inputs[0, sum(sizes) :] = ([float(row[name]) for name in numbers] - scaler.mean_) / scaler.scale_
        p = float(score(inputs)[0, 0])
        more = {"pad": "x" * ill["pad"]} if "pad" in ill else {}
        return jsonify(match_probability=round(p, 4), match_result=int(p >= 0.5), **more)

    @app.after_request
    def versioned(answer: Response) -> Response:
        ill = json.loads(control.read_text()) if control.exists() else {}
        if "version" in ill:
            answer.headers["X-Service-Version"] = ill["version"]
        return answer

    @app.get("/health")
    def health() -> Response:
        return jsonify(folder=folder.name)

    return app


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = make_app(folder)
    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
