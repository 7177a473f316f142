"""The model registry, on a real MLflow on SQLite and on a real MLflow server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from matchmaking import production, promotion, registry, tracking
from matchmaking.errors import InputError
from matchmaking.package import DECISION, Package, fetch_package
from tests.promotion_fixtures import change_evidence, package, variant


@pytest.fixture(params=["sqlite", "server"], scope="module")
def tracking_uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    if request.param == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db"
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


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


@pytest.fixture
def served(incumbent: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "production"
    shutil.copytree(incumbent, folder)
    return folder


def make(incumbent: Path, folder: Path, name: str) -> Package:
    uri = package(variant(incumbent, folder / f"bundle {name}", name), incumbent, folder / "candidates", name)
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
    assert signature.inputs.input_names() == list(registry.FEATURES)
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
    change = promotion.prepare_promotion("", str(served), say=said.append)
    assert change.after.registry_version == number
    promotion.apply(change, say=said.append)
    assert (alias("champion"), alias("challenger")) == (number, None)
    assert promotion.history(str(served)).current.registry_version == number
    promotion.apply(promotion.prepare_rollback(str(served), say=said.append), say=said.append)
    # what is served now was never registered
    assert (alias("champion"), alias("challenger")) == (None, None)
    promotion.apply(promotion.prepare_rollback(str(served), to=number, say=said.append), say=said.append)
    assert alias("champion") == number


def test_a_package_that_is_not_what_was_registered_is_refused(incumbent: Path, served: Path, tmp_path: Path) -> None:
    made = make(incumbent, tmp_path, "v20260101T000000Z")
    number = registry.register(made, run("one"))
    tracking.client().set_model_version_tag(registry.MODEL, number, "model_sha256", "0" * 64)
    with pytest.raises(promotion.RefusedError, match="isn't what was registered"):
        promotion.prepare_promotion(number, str(served), force=True, reason="all the same")


def test_an_outage_delays_the_alias_and_nothing_else(
    incumbent: Path, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = registry.register(make(incumbent, tmp_path, "v20260101T000000Z"), run("one"))
    said: list[str] = []
    change = promotion.prepare_promotion(number, str(served), say=said.append)

    def unreachable(*_: object) -> None:
        raise tracking.TrackingError("MLflow is away")

    with monkeypatch.context() as outage:
        outage.setattr(registry, "set_champion", unreachable)
        promotion.apply(change, say=said.append)
    assert "MLflow is away" in " ".join(said)
    assert alias("champion") is None
    # history only reads; the next command is told that production holds it, and sees to the alias
    assert "alias champion" in promotion.history(str(served)).unfinished
    assert alias("champion") is None
    assert promotion.prepare_promotion(number, str(served), say=said.append).nothing
    assert alias("champion") == number
    assert len(promotion.history(str(served)).entries) == 1
    assert not (served / promotion.JOURNAL).exists()
