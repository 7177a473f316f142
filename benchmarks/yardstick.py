"""The yardstick of `benchmarks.laptop`: a retraining and an evaluation as plain scripts, which the pipelines replaced.

    python -m benchmarks.yardstick retrain|evaluate DATA PRODUCTION WORK

One process each, which imports pandas, scikit-learn, TensorFlow and MLflow once. `retrain` encodes as production does,
trains a dense net of 256, 128 and 64 units for up to 60 epochs, stops where ten bring nothing, saves it and logs five
metrics; `evaluate` logs those of production. No validation, comparison, report, package or check: the least that such a
script does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import joblib
import keras
import mlflow
import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import train_test_split

from matchmaking.data.schema import CATEGORICAL, TARGET
from matchmaking.evidence.metrics import THRESHOLD
from matchmaking.model.features import NUMBERS, add_ratios


def encoded(pairs: pd.DataFrame, production: Path) -> np.ndarray:
    """The 47 inputs of each pair, by production's own encoder and scaler: shape (rows, 47)."""
    encoder, scaler = (joblib.load(production / name) for name in ("encoder.pkl", "scaler.pkl"))
    numbers = add_ratios(pairs)[list(NUMBERS)].astype(float)
    return np.hstack([encoder.transform(pairs[list(CATEGORICAL)].astype(str)), scaler.transform(numbers)])


def trained(inputs: np.ndarray, match: pd.Series) -> keras.Model:
    """The old recipe."""
    layers = keras.layers
    blocks = [
        layer
        for units in (256, 128, 64)
        for layer in (layers.Dense(units, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3))
    ]
    model = keras.Sequential([keras.Input((inputs.shape[1],)), *blocks, layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    model.fit(inputs, match, validation_split=0.2, epochs=60, batch_size=64, callbacks=[stop], verbose=0)
    return model


def main(pipeline: str, data: Path, production: Path, work: Path) -> None:
    """One script's work."""
    work.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{work}/mlflow.db")
    pairs = pd.read_csv(data)
    train, test = train_test_split(pairs, test_size=0.2, random_state=42, stratify=pairs[TARGET])
    with mlflow.start_run(run_name=pipeline):
        if pipeline == "retrain":
            model = trained(encoded(train, production), train[TARGET])
            model.save(work / "model.h5")
        else:
            model = keras.models.load_model(production / "lawyer_match_model.h5", compile=False)
        probability = model.predict(encoded(test, production), verbose=0)[:, 0]
        said = probability >= THRESHOLD
        of_said = {"accuracy": accuracy_score, "precision": precision_score, "recall": recall_score, "f1": f1_score}
        found = {name: float(score(test[TARGET], said)) for name, score in of_said.items()}
        found["roc_auc"] = float(roc_auc_score(test[TARGET], probability))
        mlflow.log_metrics(found)
    print(", ".join(f"{name} {value:.4f}" for name, value in found.items()))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
