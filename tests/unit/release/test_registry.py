"""The model registry, on a real MLflow on SQLite and on a real MLflow server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from matchmaking import tracking
from matchmaking.base import errors
from matchmaking.base.errors import InputError
from matchmaking.data import schema
from matchmaking.evidence.metrics import SCALARS
from matchmaking.model import production
from matchmaking.release import audit, check, promote, registry
from matchmaking.release.package import DECISION, Package, fetch_package
from matchmaking.tracking import connection
from tests.promotion_fixtures import change_evidence, package, variant


@pytest.fixture(autouse=True)
def connected(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    tracking.client.cache_clear()
    tracking.client()
    yield
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):
        tracking.client().delete_registered_model(registry.MODEL)
    tracking.client.cache_clear()


def make(incumbent: Path, folder: Path, name: str, verdict: str = "") -> Package:
    uri = package(variant(incumbent, folder / f"bundle {name}", name), incumbent, folder / "candidates", name, verdict)
    (folder / f"copy {name}").mkdir()
    return fetch_package(uri, folder / f"copy {name}")


def run(name: str) -> str:
    return tracking.start_run("retrain", tracking.now(), f"job {name} {time.time_ns()}", {})[0]


def alias(name: str) -> str | None:
    found = registry._alias(name)
    return str(found.version) if found else None


def test_a_package_becomes_a_version_with_lineage_and_signature(incumbent: Path, tmp_path: Path) -> None:
    made = make(incumbent, tmp_path, "v20260101T000000Z")
    run_id = run("one")
    number = registry.register(made, run_id)
    version = registry.find("")
    assert version.number == number == alias("challenger")
    assert registry.find(number) == registry.find("v20260101T000000Z") == registry.find(made.uri) == version
    assert version.package_uri == made.uri
    wanted = {"run_id": run_id, "verdict": "promote", "reasons": "it is better", "contract": "passed", "seed": "0"}
    assert version.tags.items() >= wanted.items()
    assert version.tags["dataset_version"] == "0" * 32
    assert {name: version.tags[tag] for name, tag in registry.SHA256_TAGS.items()} == made.manifest.sha256
    from mlflow.artifacts import download_artifacts
    from mlflow.models import get_model_info

    uri = f"models:/{registry.MODEL}/{number}"
    signature = get_model_info(uri).signature
    assert signature.inputs.input_names() == list(schema.FEATURES)
    assert signature.outputs.input_names() == ["match_probability", "match_result"]
    (tmp_path / "downloaded").mkdir()
    download_artifacts(uri, dst_path=str(tmp_path / "downloaded"))
    assert production.hashes(tmp_path / "downloaded") == made.manifest.sha256


def test_registering_again_gives_the_same_version(incumbent: Path, tmp_path: Path) -> None:
    made, later = (make(incumbent, tmp_path, f"v2026010{day}T000000Z") for day in (1, 2))
    run_id = run("retried")
    first = registry.register(made, run_id)
    assert registry.register(made, run_id) == first
    second = registry.register(later, run("later"))
    assert alias("challenger") == second != first
    # a late retry of the earlier step doesn't take the alias back
    registry.register(made, run_id)
    assert alias("challenger") == second


def test_what_is_not_eligible_is_no_challenger(incumbent: Path, tmp_path: Path) -> None:
    made = make(incumbent, tmp_path, "v20260101T000000Z")
    change_evidence(made.uri, DECISION, verdict="reject")
    (tmp_path / "again").mkdir()
    registry.register(fetch_package(made.uri, tmp_path / "again"), run("rejected"))
    assert alias("challenger") is None
    with pytest.raises(InputError, match="challenger"):
        registry.find("")


def test_what_is_held_is_packaged_and_registered_but_waits_for_nothing(incumbent: Path, tmp_path: Path) -> None:
    """So that it can be put to the test; `mlops promote` refuses it by itself."""
    made = make(incumbent, tmp_path, "v20260101T000000Z", "hold")
    number = registry.register(made, run("held"))
    assert not made.eligible and made.manifest.verdict == "hold"
    assert alias("challenger") is None
    assert registry.find(number).tags["verdict"] == "hold"


def test_publishing_again_gives_the_same_package_and_version(incumbent: Path, tmp_path: Path) -> None:
    """As a step that was killed behind it does."""
    made = make(incumbent, tmp_path, "v20260101T000000Z")
    bundle, compared = tmp_path / "bundle v20260101T000000Z", production.hashes(incumbent)
    scores = dict.fromkeys(SCALARS, 0.9)
    contract = {"passed": True, "checks": [], "sha256": production.hashes(bundle), "compared_with": compared}
    evaluation, decision = tmp_path / "evaluation.json", tmp_path / "decision.json"
    evaluation.write_text(json.dumps({"production": scores, "candidate": scores, "contract": contract}))
    decided = json.loads((Path(made.uri) / DECISION).read_text())
    known = {"candidates_uri": str(tmp_path / "candidates"), "dataset_version": "0" * 32, "run_id": run("one")}
    for verdict, timestamp, uri in (
        ("promote", "20260101T000000Z", made.uri),
        ("promote", "20260101T000000Z", made.uri),
        ("reject", "20260102T000000Z", ""),
    ):
        decision.write_text(json.dumps({**decided, "verdict": verdict}))
        assert registry.publish_candidate(bundle, evaluation, decision, timestamp=timestamp, **known) == uri
        mine = [version for version in registry.versions() if version.tags["run_id"] == known["run_id"]]
        assert [version.package_uri for version in mine] == [made.uri]


@pytest.mark.parametrize("version", ["7", "v20990101T000000Z", "/no/such/package", "it's"])
def test_an_unknown_version_is_told(version: str, incumbent: Path, tmp_path: Path) -> None:
    registry.register(make(incumbent, tmp_path, "v20260101T000000Z"), run("one"))
    with pytest.raises(Exception, match=r"no such version|model registry"):
        registry.find(version)


def test_versions_come_newest_first_with_their_aliases(incumbent: Path, served: Path, tmp_path: Path) -> None:
    assert registry.versions() == []
    for day in (1, 2, 3):
        made = make(incumbent, tmp_path, f"v2026010{day}T000000Z")
        registry.register(made, run(made.uri))
        if day == 1:
            registry.set_champion(made.manifest.sha256[production.MODEL])
    found = registry.versions()
    assert [version.tags["package"] for version in found] == [f"v2026010{day}T000000Z" for day in (3, 2, 1)]
    assert [version.aliases for version in found] == [("challenger",), (), ("champion",)]
    assert registry.versions(2) == found[:2]


def test_the_aliases_follow_production(incumbent: Path, served: Path, tmp_path: Path) -> None:
    number = registry.register(make(incumbent, tmp_path, "v20260101T000000Z"), run("one"))
    said: list[str] = []
    change = check.prepare_promotion("", str(served), say=said.append)
    assert change.after.registry_version == number
    promote.apply(change, say=said.append)
    assert (alias("champion"), alias("challenger")) == (number, None)
    assert audit.history(str(served)).current.registry_version == number
    promote.apply(check.prepare_rollback(str(served), say=said.append), say=said.append)
    # what is served now was never registered
    assert (alias("champion"), alias("challenger")) == (None, None)
    promote.apply(check.prepare_rollback(str(served), to=number, say=said.append), say=said.append)
    assert alias("champion") == number


def test_a_package_that_is_not_what_was_registered_is_refused(incumbent: Path, served: Path, tmp_path: Path) -> None:
    made = make(incumbent, tmp_path, "v20260101T000000Z")
    number = registry.register(made, run("one"))
    tracking.client().set_model_version_tag(registry.MODEL, number, "model_sha256", "0" * 64)
    with pytest.raises(errors.RefusedError, match="isn't what was registered"):
        check.prepare_promotion(number, str(served), force=True, reason="all the same")


def test_an_outage_delays_the_alias_and_nothing_else(
    incumbent: Path, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = registry.register(make(incumbent, tmp_path, "v20260101T000000Z"), run("one"))
    said: list[str] = []
    change = check.prepare_promotion(number, str(served), say=said.append)

    def unreachable(*_: object) -> None:
        raise tracking.TrackingError("MLflow is away")

    with monkeypatch.context() as outage:
        outage.setattr(registry, "set_champion", unreachable)
        promote.apply(change, say=said.append)
    assert "MLflow is away" in " ".join(said)
    assert alias("champion") is None
    # history only reads; the next command is told that production holds it, and sees to the alias
    assert "alias champion" in audit.history(str(served)).unfinished
    assert alias("champion") is None
    assert check.prepare_promotion(number, str(served), say=said.append).nothing
    assert alias("champion") == number
    assert len(audit.history(str(served)).entries) == 1
    assert not (served / audit.JOURNAL).exists()


# --- an SQLite file that stands in the way -------------------------------------------------------------


@contextmanager
def locked(path: Path, seconds: float = 600) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the database."""
    code = (
        "import sqlite3, sys, time\n"
        "held = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "held.execute('begin exclusive')\n"
        "print('locked', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.fixture
def database(tracking_uri: str) -> Path:
    if not tracking_uri.startswith("sqlite"):
        pytest.skip("for SQLite")
    return Path(tracking_uri.removeprefix("sqlite:///"))


@pytest.mark.parametrize("fault", ["locked", "no database", "cut short"])
@pytest.mark.parametrize("new_process", [False, True])
def test_a_database_that_cannot_be_used_delays_the_alias_and_nothing_else(
    incumbent: Path,
    served: Path,
    tmp_path: Path,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    new_process: bool,
) -> None:
    """Of a promotion by its package, and of a rollback: files, audit line and restart are done."""
    made = make(incumbent, tmp_path, "v20260101T000000Z")
    number = registry.register(made, run("one"))
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 1.0)
    monkeypatch.setenv("MLOPS_RESTART_COMMAND", f"touch {tmp_path}/restarted")
    before = production.hashes(served)
    good = database.read_bytes()
    said: list[str] = []
    with ExitStack() as stack:
        if fault == "locked":
            stack.enter_context(locked(database))
        elif fault == "no database":
            database.write_bytes(b"not a database at all" * 1000)
        else:
            database.write_bytes(good[: len(good) // 3])
        if new_process:
            tracking.client.cache_clear()
        promote.apply(check.prepare_promotion(made.uri, str(served), say=said.append), say=said.append)
        assert production.hashes(served) == made.manifest.sha256
        assert (tmp_path / "restarted").exists()
        (tmp_path / "restarted").unlink()
        assert "alias champion is moved by the next promote or rollback" in " ".join(said)
        assert not any("\n" in text for text in said), said
        promote.apply(check.prepare_rollback(str(served), say=said.append), say=said.append)
        assert production.hashes(served) == before
        assert (tmp_path / "restarted").exists()
        assert [entry.action for entry in audit.history(str(served)).entries] == ["promote", "rollback"]
    if fault != "locked":
        database.write_bytes(good)
    tracking.client.cache_clear()
    # with the records back, the alias follows
    promote.apply(check.prepare_rollback(str(served), to="v20260101T000000Z", say=said.append), say=said.append)
    assert alias("champion") == number


def test_a_locked_database_is_waited_for(
    incumbent: Path, tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than MLflow's own 20 s."""
    run_id = run("waits")
    begun = time.monotonic()
    with locked(database, seconds=25):
        tracking.log_params(run_id, {"after": "the lock"})
    assert time.monotonic() - begun > 20
    assert tracking.client().get_run(run_id).data.params["after"] == "the lock"


def test_a_database_that_stays_locked_is_told_in_one_line(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 1.0)
    with locked(database):
        for clear in (False, True):
            if clear:
                tracking.client.cache_clear()
            with pytest.raises(tracking.TrackingError, match="database is locked") as told:
                registry.find("1")
            assert "\n" not in str(told.value)
