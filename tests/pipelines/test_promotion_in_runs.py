"""Runs that promote, or during which production changes: what becomes of them, and what they tell."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from matchmaking.data.sample import generate_file
from matchmaking.model import production
from matchmaking.release import audit
from tests.promotion_fixtures import contents

Mlops = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def appended_while_it_evaluates(model: Path, work: Path) -> Iterator[None]:
    """Writes to a file of production as soon as a run in a work folder has come that far."""
    import threading

    def change() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            for log in work.glob("runs/*/run.log"):
                if "Executing task 'evaluate'" in log.read_text():
                    with model.open("ab") as file:
                        file.write(b" ")
                    return
            time.sleep(0.05)

    changing = threading.Thread(target=change)
    changing.start()
    yield
    changing.join()


def test_production_that_changes_during_a_run_fails_it(
    mlops: Mlops, sample_csv: Path, served: Path, tmp_path: Path
) -> None:
    """What was measured is of a model that isn't served any more."""
    before = production.hashes(served)
    with appended_while_it_evaluates(served / production.MODEL, tmp_path / "work"):
        done = mlops("run", "evaluate", "--data", sample_csv, "--production", served, "--work-dir", tmp_path / "work")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "failed" in line]
    assert "changed while the run went on" in line
    (folder,) = (tmp_path / "work" / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["production_sha256"]["before"] == before
    assert summary["production_sha256"]["after"] == production.hashes(served) != before
    # what it had found is told all the same
    assert summary["metrics"]["production"]["rows"] == 2400
    assert "CHANGED DURING THE RUN" in (folder / "report.txt").read_text()


def test_a_policy_lets_retrain_go_on_to_the_promotion(mlops: Mlops, tmp_path: Path) -> None:
    """Into an empty folder, so that the verdict is sure."""
    from mlflow import MlflowClient

    generate_file(tmp_path / "pairs.csv", 1_500, seed=3)
    (tmp_path / "production").mkdir()
    # one epoch gives a model that the default limits of production would not let in by itself
    limits = "limits: {production: {roc_auc: 0, average_precision: 0, brier: 1}}\n"
    (tmp_path / "policy.yaml").write_text("auto_promote: true\n" + limits)
    done = mlops(
        *("run", "retrain", "--data", tmp_path / "pairs.csv", "--production", tmp_path / "production"),
        *("--work-dir", tmp_path / "work", "--algorithm", "dense", "--epochs", 1, "--json"),
        *("--policy", tmp_path / "policy.yaml"),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["verdict"] == "bootstrap"
    assert contents(tmp_path / "production") == contents(Path(summary["candidate_uri"]))
    (entry,) = audit.history(str(tmp_path / "production")).entries
    assert entry.who == f"pipeline run {summary['run_id']}"
    assert summary["promotion"] == entry.as_dict()
    assert summary["production_sha256"] == {"before": {}, "after": production.hashes(tmp_path / "production")}
    run = MlflowClient(f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}").get_run(summary["run_id"])
    assert (run.info.status, run.data.tags["promoted"]) == ("FINISHED", entry.after.version)


def test_what_a_run_did_before_its_promotion_failed_is_told(mlops: Mlops, tmp_path: Path) -> None:
    """The service doesn't restart: production holds the candidate, and the run is failed with all that it found."""
    from mlflow import MlflowClient

    generate_file(tmp_path / "pairs.csv", 1_500, seed=3)
    (tmp_path / "production").mkdir()
    limits = "limits: {production: {roc_auc: 0, average_precision: 0, brier: 1}}\n"
    (tmp_path / "policy.yaml").write_text("auto_promote: true\n" + limits)
    done = mlops(
        *("run", "retrain", "--data", tmp_path / "pairs.csv", "--production", tmp_path / "production"),
        *("--work-dir", tmp_path / "work", "--algorithm", "dense", "--epochs", 1),
        *("--policy", tmp_path / "policy.yaml"),
        MLOPS_RESTART_COMMAND="sh -c 'echo no such pod; exit 1'",
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "failed" in line]
    assert "in step promote" in line
    assert "no such pod" in line
    (folder,) = (tmp_path / "work" / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["error"]["step"] == "promote"
    assert summary["error"]["exit_code"] == 1
    assert "no such pod" in summary["error"]["message"]
    assert summary["verdict"] == "bootstrap"
    assert summary["reasons"]
    assert 0 < summary["metrics"]["candidate"]["average_precision"] <= 1
    assert summary["training"]["recipe"]["epochs"] == 1
    assert summary["dataset_version"]
    assert contents(Path(summary["candidate_uri"])) == contents(tmp_path / "production")
    assert summary["promotion"]["to"]["sha256"] == summary["production_sha256"]["after"]
    assert {"train", "report"} <= {step["step"] for step in summary["steps"]}
    # the report is there, and says that the run failed
    for name in ("report.html", "report.txt"):
        assert "no such pod" in (folder / name).read_text()
    assert (folder / "evaluation.json").exists()
    run = MlflowClient(f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}").get_run(summary["run_id"])
    assert run.info.status == "FAILED"
    assert "no such pod" in run.data.tags["failure_reason"]
    assert run.data.tags["promoted"] == Path(summary["candidate_uri"]).name
    assert run.data.tags["verdict"] == "bootstrap"
    assert "candidate_average_precision" in run.data.metrics


def test_a_report_that_fails_tells_of_the_package_that_it_published(mlops: Mlops, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    generate_file(tmp_path / "pairs.csv", 1_500, seed=3)
    (tmp_path / "production").mkdir()
    with appended_while_it_evaluates(tmp_path / "production" / production.MODEL, tmp_path / "work"):
        done = mlops(
            *("run", "retrain", "--data", tmp_path / "pairs.csv", "--production", tmp_path / "production"),
            *("--work-dir", tmp_path / "work", "--algorithm", "dense", "--epochs", 1),
        )
    assert done.returncode == 1, done.stderr
    (folder,) = (tmp_path / "work" / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["error"]["step"] == "report"
    assert "changed while the run went on" in summary["error"]["message"]
    assert summary["verdict"] == "bootstrap"
    production.check_bundle(Path(summary["candidate_uri"]))
    client = MlflowClient(f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}")
    (version,) = client.search_model_versions(f"run_id = '{summary['run_id']}'")
    assert version.tags["package_uri"] == summary["candidate_uri"]
    # what is known of a run that went well is not among the results
    assert not list(folder.glob("packaged"))
