"""A packaged candidate in an environment that has only what production has: Keras 3.12.0, TensorFlow, scikit-learn.

Installs packages, so it runs only where MLOPS_TEST_INSTALL=1 says that it may (`make test-all` does).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from matchmaking.data.sample import generate
from matchmaking.model import production
from matchmaking.model.recipe import Recipe
from matchmaking.model.score import score
from matchmaking.model.train import train_candidate

pytestmark = pytest.mark.skipif(
    os.environ.get("MLOPS_TEST_INSTALL") != "1", reason="installs packages: set MLOPS_TEST_INSTALL=1 to run it"
)

# as the service does it, in none of our words
SERVE = """
import json, sys
import joblib, keras, numpy as np, pandas as pd, sklearn
folder, rows = sys.argv[1], json.load(sys.stdin)
model = keras.models.load_model(f"{folder}/lawyer_match_model.h5")
encoder, scaler = joblib.load(f"{folder}/encoder.pkl"), joblib.load(f"{folder}/scaler.pkl")
df = pd.DataFrame(rows)
df["budget_fee_ratio"] = df["budget"] / (df["consultation_fee"] + 1)
df["experience_success"] = df["experience"] * df["success_rate"]
df["urgency_complexity"] = df["urgency_level"] * df["case_complexity_score"]
df["rating_availability"] = df["rating"] * df["availability"]
df["budget_per_urgency"] = df["budget"] / (df["urgency_level"] + 1)
df["fee_rating_ratio"] = df["consultation_fee"] / (df["rating"] + 0.1)
one_hot = encoder.transform(df[["case_type", "location", "preferred_language", "specialization", "city"]].astype(str))
X = np.hstack([one_hot, scaler.transform(df[list(scaler.feature_names_in_)].astype(float))])
p = model.predict(X, verbose=0).ravel()
json.dump({"keras": keras.__version__, "sklearn": sklearn.__version__, "p": [float(v) for v in p]}, sys.stdout)
"""


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    tensorflow = "tensorflow-cpu" if sys.platform == "linux" and os.uname().machine == "x86_64" else "tensorflow"
    wanted = ["keras==3.12.0", f"{tensorflow}==2.20.0", "scikit-learn==1.7.2", "pandas<3"]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True, timeout=900)
    return folder / "bin" / "python"


def served(python: Path, bundle: Path, rows: str) -> dict:
    done = subprocess.run(
        [python, "-c", SERVE, bundle], input=rows, capture_output=True, text=True, timeout=300, env={"PATH": os.defpath}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.parametrize("algorithm", ["interactions", "dense"])
def test_a_candidate_gives_the_pipeline_s_probabilities(
    clean_python: Path, incumbent: Path, tmp_path: Path, algorithm: str
) -> None:
    generate(2_000, seed=5).to_parquet(tmp_path / "train.parquet", index=False)
    recipe = Recipe(algorithm, epochs=3)
    train_candidate(tmp_path / "train.parquet", incumbent, tmp_path / "candidate", recipe)
    pairs = generate(500, seed=6)
    found = served(clean_python, tmp_path / "candidate", pairs.to_json(orient="records"))
    assert found["keras"] == "3.12.0"
    assert found["sklearn"] == "1.7.2"
    np.testing.assert_allclose(found["p"], score(pairs, tmp_path / "candidate"), atol=1e-6)


def test_the_real_candidate_too(clean_python: Path, real: Path, tmp_path: Path) -> None:
    from matchmaking.data.read import read_pairs
    from matchmaking.inputs.split import split

    pairs, _ = read_pairs(real / "matchmaking_dataset.csv")
    train, test = split(pairs, "stratified")
    train.to_parquet(tmp_path / "train.parquet", index=False)
    train_candidate(tmp_path / "train.parquet", real, tmp_path / "candidate", Recipe())
    found = served(clean_python, tmp_path / "candidate", test.to_json(orient="records", double_precision=15))
    np.testing.assert_allclose(found["p"], score(test, tmp_path / "candidate"), atol=1e-6)
    assert (tmp_path / "candidate" / production.ENCODER).read_bytes() == (real / production.ENCODER).read_bytes()
