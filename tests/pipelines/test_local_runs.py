"""The three pipelines, really run: kfp.local, a subprocess a step, MLflow on SQLite, on generated data."""

from __future__ import annotations

import html
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.base.files import file_md5
from matchmaking.data.sample import generate, true_probability
from matchmaking.data.schema import TARGET
from matchmaking.evidence.metrics import SCALARS
from matchmaking.inputs.split import split
from matchmaking.model import production
from matchmaking.tracking.step import ERROR_MARK

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def work(
    run_of_all: tuple[Path, subprocess.CompletedProcess[str]],
) -> tuple[Path, subprocess.CompletedProcess[str], dict[str, Path]]:
    """One `mlops run all`: the work folder, what it printed, and each run's folder."""
    folder, done = run_of_all
    return folder, done, {path.name.split("_")[0]: path for path in (folder / "runs").iterdir()}


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def runs_of(work_dir: Path) -> dict[str, Any]:
    """The MLflow runs under a work folder, by name."""
    from mlflow import MlflowClient

    from matchmaking.base.settings import EXPERIMENT

    client = MlflowClient(f"sqlite:///{work_dir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_the_table_says_it_all(work: Any) -> None:
    _, done, runs = work
    for word in (
        "accuracy",
        "precision",
        "recall",
        "f1",
        "ROC AUC",
        "average precision",
        "Brier",
        "log loss",
    ):
        assert word in done.stdout
    assert "no column is beyond its threshold" in " ".join(done.stdout.split())
    assert str(runs["retrain"] / "report.html") in done.stdout
    assert "mlops ui" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 200
    assert "Traceback" not in done.stderr


def test_summary_holds_what_programs_read(work: Any, sample_csv: Path, incumbent: Path) -> None:
    _, _, runs = work
    for name, folder in runs.items():
        found = summary(folder)
        assert found["pipeline"] == name
        assert found["status"] == "succeeded"
        assert found["seed"] == 3
        assert found["dataset_version"] == file_md5(sample_csv)
        assert found["production_sha256"]["before"] == production.hashes(incumbent)
        assert found["production_sha256"]["after"] == production.hashes(incumbent)
        assert {"ingest", "report"} <= {step["step"] for step in found["steps"]}
        for step in found["steps"]:
            assert 0 < step["import_seconds"] <= step["wall_seconds"] < 300
            assert 10 < step["peak_mb"] < 5_000


def test_retrain_finds_a_better_model_near_the_ceiling(work: Any, sample_csv: Path) -> None:
    """The candidate beats the weak incumbent and comes close to the best any model can do on these very rows."""
    from sklearn.metrics import average_precision_score

    _, _, runs = work
    found = summary(runs["retrain"])
    assert found["verdict"] == "promote"
    _, test = split(generate(12_000, seed=1), "stratified")
    ceiling = average_precision_score(test[TARGET], true_probability(test))
    candidate = found["metrics"]["candidate"]["average_precision"]
    assert found["metrics"]["production"]["average_precision"] < candidate < ceiling + 0.02
    assert candidate > ceiling - 0.12


def test_the_package_is_whole(work: Any, incumbent: Path) -> None:
    folder, _, runs = work
    found = summary(runs["retrain"])
    package = Path(found["candidate_uri"])
    assert package.parent == folder / "candidates"
    assert {path.name for path in package.iterdir()} == {
        *production.FILES,
        "manifest.json",
        "decision.json",
        "contract.json",
    }
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["sha256"] == production.hashes(package)
    for name in (production.ENCODER, production.SCALER):
        assert (package / name).read_bytes() == (incumbent / name).read_bytes()
    assert manifest["seed"] == 3
    assert manifest["dataset_version"] == found["dataset_version"]
    assert manifest["libraries"]["keras"] == manifest["saved_by_keras"] == "3.12.0"
    assert manifest["metrics"]["candidate"]["roc_auc"] == found["metrics"]["candidate"]["roc_auc"]


def test_evaluate_and_retrain_agree_on_production(work: Any) -> None:
    _, _, runs = work
    evaluated, retrained = (summary(runs[name])["metrics"]["production"] for name in ("evaluate", "retrain"))
    assert {name: evaluated[name] for name in SCALARS} == {name: retrained[name] for name in SCALARS}


def test_monitor_says_that_it_compares_the_reference_with_itself(work: Any) -> None:
    _, _, runs = work
    found = summary(runs["monitor"])
    assert found["drift"]["self_comparison"] is True
    assert found["drifted_columns"] == []
    kinds = {column["kind"] for column in found["drift"]["columns"]}
    assert kinds == {"feature", "target", "score"}
    assert "two samples of the reference" in " ".join((runs["monitor"] / "report.txt").read_text().split())


def test_reports_are_there(work: Any) -> None:
    _, _, runs = work
    plots = {path.stem for path in (runs["retrain"] / "plots").glob("*.png")}
    assert plots == {"roc", "precision_recall", "calibration", "confusion_matrix", "training_curves"}
    assert (runs["monitor"] / "drift.html").stat().st_size > 10_000
    for folder in runs.values():
        assert (folder / "report.html").read_text().startswith("<!doctype html>")
        assert (folder / "report.txt").read_text().strip()


def test_mlflow_has_the_runs(work: Any) -> None:
    folder, _, runs = work
    recorded = runs_of(folder)
    assert set(recorded) == {path.name for path in runs.values()}
    retrain = recorded[runs["retrain"].name]
    assert retrain.info.status == "FINISHED"
    for param in (
        "algorithm",
        "batch_size",
        "epochs",
        "learning_rate",
        "seed",
        "dataset_version",
        "timestamp",
    ):
        assert retrain.data.params[param], param
    assert retrain.data.params["code_version"]
    found = summary(runs["retrain"])
    for metric in SCALARS:
        assert retrain.data.metrics[f"candidate_{metric}"] == pytest.approx(found["metrics"]["candidate"][metric])
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    curve = client.get_metric_history(retrain.info.run_id, "training_val_loss")
    assert [point.step for point in curve] == list(range(1, found["training"]["recipe"]["epochs"] + 1))
    stored = {item.path for item in client.list_artifacts(retrain.info.run_id)}
    assert {"report.html", "plots", "decision.json", "evaluation.json"} <= stored


def test_bootstrap_without_production(mlops: Mlops, sample_csv: Path, tmp_path: Path) -> None:
    """No production model: the run fits its own encoders and says so. Also --json, --policy and the dense recipe."""
    (tmp_path / "empty").mkdir()
    policy = tmp_path / "policy.yaml"
    policy.write_text("primary: {min_effect: 0.02}\n")
    done = mlops(
        *("run", "retrain", "--data", sample_csv, "--production", tmp_path / "empty", "--work-dir", tmp_path),
        *("--algorithm", "dense", "--epochs", "2", "--policy", policy, "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "bootstrap"
    assert found["metrics"]["production"] is None
    assert found["production_sha256"] == {"before": {}, "after": {}}
    manifest = json.loads((Path(found["candidate_uri"]) / "manifest.json").read_text())
    assert manifest["encoders"] == "fitted on the training rows"
    production.check_bundle(Path(found["candidate_uri"]))


def test_monitor_finds_drift(mlops: Mlops, sample_csv: Path, incumbent: Path, tmp_path: Path) -> None:
    """Fees have gone up, a new city has appeared, and the fresh pairs have no labels yet."""
    current = generate(4_000, seed=9, drift="prices").drop(columns="match")
    current.loc[current.index % 10 == 0, "city"] = "Ahmedabad"
    current.to_csv(tmp_path / "current.csv", index=False)
    done = mlops(
        *("run", "monitor", "--data", sample_csv, "--production", incumbent, "--work-dir", tmp_path),
        *("--current", tmp_path / "current.csv", "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"consultation_fee", "city"} <= set(found["drifted_columns"])
    assert "case_type" not in found["drifted_columns"]
    assert found["drift"]["self_comparison"] is False
    assert found["data"]["unseen"] == {"city": {"Ahmedabad": 400}}


@pytest.mark.parametrize("fault", ["column", "hostile pickle", "half a bundle", "no file"])
def test_bad_input_ends_in_one_line_and_a_failed_run(
    mlops: Mlops, sample_csv: Path, incumbent: Path, tmp_path: Path, fault: str
) -> None:
    import pickle
    import shutil

    served = shutil.copytree(incumbent, tmp_path / "served")
    data = tmp_path / "data.csv"
    pairs = generate(300, seed=0)
    pairs.to_csv(data, index=False)
    if fault == "column":
        pairs.drop(columns="rating").to_csv(data, index=False)
        words = [str(data), "column 'rating' is missing"]
    elif fault == "hostile pickle":
        (served / production.SCALER).write_bytes(pickle.dumps(subprocess.run))
        words = [f"{served}/scaler.pkl refers to subprocess.run"]
    elif fault == "half a bundle":
        (served / production.ENCODER).unlink()
        words = [str(served), "encoder.pkl is missing"]
    else:
        data = tmp_path / "none.csv"
        words = [f"{data} doesn't exist"]
    done = mlops("run", "retrain", "--data", data, "--production", served, "--work-dir", tmp_path / "work")
    assert done.returncode == 2, done.stdout + done.stderr
    failure = [line for line in done.stderr.splitlines() if "failed" in line]
    assert len(failure) == 1
    for word in words:
        assert word in failure[0]
    assert "Traceback" not in done.stdout + done.stderr
    (run,) = runs_of(tmp_path / "work").values()
    assert run.info.status == "FAILED"
    assert words[-1] in run.data.tags["failure_reason"]
    assert not (tmp_path / "work" / "candidates").exists()
    (folder,) = (tmp_path / "work" / "runs").iterdir()
    # what is wrong stays wrong: no step is tried again
    assert (folder / "run.log").read_text().count(ERROR_MARK) == 1
    assert summary(folder)["status"] == "failed"
    assert words[-1] in summary(folder)["error"]["message"]


def test_compiled_pipelines(mlops: Mlops, tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert (
            mlops("compile", "--out", tmp_path / out, MLOPS_REGISTRY="registry.test", MLOPS_TAG="1.2.3").returncode == 0
        )
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"evaluate.yaml", "monitor.yaml", "retrain.yaml"} <= set(names)
    for name in names:
        text = (tmp_path / "one" / name).read_text()
        assert text == (tmp_path / "two" / name).read_text()
        assert "pip install" not in text
        assert ":latest" not in text
        images = {line.split("image: ")[1] for line in text.splitlines() if "image: " in line}
        assert images <= {f"registry.test/mlops-{kind}:1.2.3" for kind in ("base", "trainer", "monitor")}


def test_a_mistake_on_the_command_line(mlops: Mlops, sample_csv: Path) -> None:
    for args in (
        ["run", "retrain"],
        ["run", "nothing", "--data", "x"],
        ["run", "evaluate", "--data", sample_csv],
        ["run", "monitor", "--data", sample_csv, "--epochs", 3],
        ["run", "retrain", "--data", sample_csv, "--fail-on-drift"],
        ["candidates", "--work-dir", "nosuch"],
    ):
        done = mlops(*args)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_what_was_noticed_in_the_data_is_said(mlops: Mlops, incumbent: Path, tmp_path: Path) -> None:
    """A tenth of the cities in another spelling: in terminal, report and verdict, which is not promote."""
    pairs = generate(3_000, seed=5)
    pairs["city"] = pairs["city"].where(pairs.index % 10 > 0, pairs["city"].str.upper())
    data = tmp_path / "pairs.csv"
    pairs.to_csv(data, index=False)
    options = ("--production", incumbent, "--work-dir", tmp_path, "--algorithm", "dense", "--epochs", 2)
    done = mlops("run", "retrain", "--data", data, *options)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    for said in (done.stdout, (folder / "report.txt").read_text(), (folder / "report.html").read_text()):
        assert "column 'city': 300 of 3,000 rows (10.0%)" in " ".join(html.unescape(said).split())
        assert "(Delhi?)" in said
    found = summary(folder)
    assert found["verdict"] != "promote" and any("(Delhi?)" in reason for reason in found["reasons"])


def test_a_step_that_is_killed_is_recorded_and_told(
    sample_csv: Path, incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't say anything itself: the command line marks its run and notifies, once."""
    import threading
    import time

    import psutil

    from matchmaking.tracking import notify
    from mlops.local.run import run_pipeline

    sent: list[tuple[str, str]] = []

    def send(event: str, title: str, body: str) -> bool:
        sent.append((event, body))
        return True

    monkeypatch.setattr(notify, "send", send)
    # a run sets it for its steps
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr("matchmaking.tracking.runs.client", tracking.client.__wrapped__)

    def kill_when_it_runs() -> None:
        for _ in range(600):
            for child in psutil.Process().children(recursive=True):
                if child.name().startswith("python") and "executor_main" in " ".join(child.cmdline()):
                    child.kill()
                    return
            time.sleep(0.05)

    def on_step(name: str) -> None:
        if name == "validate":
            threading.Thread(target=kill_when_it_runs).start()

    arguments = {"data": str(sample_csv), "production": str(incumbent)}
    outcome = run_pipeline("evaluate", arguments, tmp_path, on_step=on_step)
    assert outcome.exit_code == 1
    assert outcome.summary["error"]["step"] == "validate"
    (run,) = runs_of(tmp_path).values()
    assert run.info.status == "FAILED"
    assert run.data.tags["failure_reason"].startswith("validate: ")
    assert [event for event, _ in sent] == ["failed"]
