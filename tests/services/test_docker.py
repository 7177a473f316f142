"""The images, and steps in containers. The tests marked `docker` need an engine and `make images`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.settings import image, package_version
from matchmaking.data.sample import generate, generate_file
from matchmaking.model import production
from mlops.local import containers
from mlops.local.run import run_pipeline
from tests.compiled_steps import as_compiled
from tests.services.conftest import S3, free_ports

Mlops = Callable[..., subprocess.CompletedProcess[str]]

STEP_KINDS = ("base", "trainer", "monitor")
KINDS = (*STEP_KINDS, "client", "mlflow")
docker_test = pytest.mark.docker


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the Docker engine, with all images there."""
    docker = pytest.importorskip("docker")
    try:
        containers.check_engine(image(kind) for kind in KINDS)
    except MlopsError as error:
        pytest.skip(str(error))
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def call(engine: Any) -> Callable[..., str]:
    """Runs a command in an image, shut in as steps are, and gives what it prints."""

    def run(kind: str, *command: str, **options: Any) -> str:
        shut_in = {**containers.options({}), "network_mode": "none", "entrypoint": "", **options}
        return engine.containers.run(image(kind), list(command), remove=True, stderr=True, **shut_in).decode()

    return run


def left_behind(engine: Any, folder: Path) -> list[Any]:
    """The containers that still hold a folder."""
    containers = engine.containers.list(all=True, ignore_removed=True)
    return [each for each in containers if any(str(folder) in mount["Source"] for mount in each.attrs["Mounts"])]


def numbers(found: Any, path: str = "") -> dict[str, Any]:
    """Everything in a summary, by its path in it, but for what each run has of its own."""
    if path.rpartition("/")[2] in ("run_id", "run_name", "candidate_uri", "steps", "code_version"):
        return {path: None}
    if isinstance(found, dict):
        return {key: value for name, each in found.items() for key, value in numbers(each, f"{path}/{name}").items()}
    if isinstance(found, list):
        return {key: value for n, each in enumerate(found) for key, value in numbers(each, f"{path}/{n}").items()}
    return {path: found}


@docker_test
def test_containers_give_the_numbers_of_subprocesses(
    engine: Any,
    mlops: Mlops,
    run_of_all: tuple[Path, subprocess.CompletedProcess[str]],
    sample_csv: Path,
    incumbent: Path,
    tmp_path: Path,
) -> None:
    before = production.hashes(incumbent)
    summaries = [json.loads(path.read_text()) for path in run_of_all[0].glob("runs/*/summary.json")]
    here = {each["pipeline"]: each for each in summaries}
    done = mlops(
        *("run", "all", "--data", sample_csv, "--production", incumbent, "--work-dir", tmp_path / "there"),
        *("--runner", "docker", "--seed", "3", "--json"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    there = json.loads(done.stdout)
    found, expected = numbers(there), numbers(here)
    assert found.keys() == expected.keys()
    words = {path: value for path, value in expected.items() if not isinstance(value, float)}
    assert {path: found[path] for path in words} == words
    floats = {path: value for path, value in expected.items() if isinstance(value, float)}
    assert {path: found[path] for path in floats} == pytest.approx(floats, abs=1e-6, nan_ok=True)
    assert any("candidate/roc_auc" in path for path in floats)
    assert production.hashes(incumbent) == before
    package = Path(there["retrain"]["candidate_uri"] or next((tmp_path / "there").glob("runs/retrain_*")))
    assert {path.stat().st_uid for path in (package, *(tmp_path / "there").rglob("*"))} == {os.getuid()}
    assert {step["step"] for step in there["retrain"]["steps"]} == {step["step"] for step in here["retrain"]["steps"]}
    assert not left_behind(engine, tmp_path)


@docker_test
def test_a_relative_path_and_a_production_inside_the_work_folder(
    engine: Any, sample_csv: Path, incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work folder is writable, for the records of the run; production in it is not, though it lies there."""
    from kfp import local

    from tests.services.probe_component import look

    served = shutil.copytree(incumbent, tmp_path / "work" / "production")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///work/mlflow.db")
    arguments, runner = containers.docker_runner(
        {"data": str(sample_csv), "production": "work/production", "candidates": "work/candidates"}
    )
    assert arguments == {
        "data": str(sample_csv),
        "production": str(served),
        "candidates": str(tmp_path / "work" / "candidates"),
    }

    monkeypatch.setenv("SECRET_OF_OURS", "x")
    local.init(runner=runner, pipeline_root=str(tmp_path / "steps"), workspace_root=str(tmp_path / "space"))
    assert look(**arguments).output == {
        "readable": True,
        "writable": ["candidates", "tmp", "work folder"],
        "capabilities": "",
        "no_new_privileges": "1",
        "networks": ["lo"],
        "tracking": f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}",
        "secret": None,
        "user": [os.getuid(), os.getgid()],
    }
    assert not (served / "new").exists()


@docker_test
def test_containers_reach_a_store_on_this_machine(
    engine: Any, mlops: Mlops, s3: S3, sample_csv: Path, incumbent: Path, tmp_path: Path
) -> None:
    """With the pipeline's credentials from the environment, which can only read there."""
    s3.put("data", **{"pairs.csv": sample_csv.read_bytes()})
    s3.put("production", **{name: (incumbent / name).read_bytes() for name in production.FILES})
    done = mlops(
        *("run", "evaluate", "--data", "s3://data/pairs.csv", "--production", "s3://production"),
        *("--work-dir", tmp_path, "--runner", "docker", "--json"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["production_sha256"]["after"] == production.hashes(incumbent)
    assert found["metrics"]["production"]["rows"] == 2400


@docker_test
def test_a_step_that_fails_in_a_container(engine: Any, mlops: Mlops, incumbent: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    generate(300, seed=0).drop(columns="rating").to_csv(data, index=False)
    done = mlops(
        *("run", "retrain", "--data", data, "--production", incumbent, "--work-dir", tmp_path / "work"),
        *("--runner", "docker"),
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "failed" in line)
    assert "column 'rating' is missing" in line
    (folder,) = (tmp_path / "work" / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["error"]["step"] == "validate"
    assert not left_behind(engine, tmp_path)


@docker_test
def test_an_exit_code_is_never_lost(engine: Any) -> None:
    """Kfp's own takes a container that is gone before it asks for one that went well."""
    for code in (0, 3) * 5:
        found = containers._run_container(
            engine, image("base"), ["sh", "-c", f"exit {code}"], {}, **containers.options({})
        )
        assert found == code
    with pytest.raises(RuntimeError, match="absent"):
        containers._run_container(engine, "absent:0", ["true"], {}, **containers.options({}))


@docker_test
def test_a_missing_image_is_told_before_anything_starts(
    engine: Any, mlops: Mlops, sample_csv: Path, tmp_path: Path
) -> None:
    done = mlops(
        *("run", "monitor", "--data", sample_csv, "--work-dir", tmp_path / "work", "--runner", "docker"),
        MLOPS_TAG="0.0.0",
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "mlops-base:0.0.0" in line
    assert "mlops-monitor:0.0.0" in line
    assert "make images" in line
    assert not (tmp_path / "work").exists()


def test_a_missing_engine_is_told_before_anything_starts(mlops: Mlops, sample_csv: Path, tmp_path: Path) -> None:
    done = mlops(
        *("run", "monitor", "--data", sample_csv, "--work-dir", tmp_path / "work", "--runner", "docker"),
        DOCKER_HOST=f"unix://{tmp_path}/none.sock",
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no Docker engine answers" in line
    assert not (tmp_path / "work").exists()


def test_promoting_by_policy_needs_a_production_that_can_be_written(tmp_path: Path) -> None:
    arguments = {"production": str(tmp_path), "policy": "auto_promote: true\n"}
    with pytest.raises(InputError, match="mlops promote"):
        containers._check_policy(arguments)
    containers._check_policy({**arguments, "production": "s3://production"})
    containers._check_policy({**arguments, "policy": ""})


@pytest.mark.parametrize(
    ("uris", "environment", "network"),
    [
        (["/data.csv", "file:///production"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, "none"),
        (["s3://data/pairs.csv"], {"NO_PROXY": "127.0.0.1"}, "bridge"),
        (["s3://data/pairs.csv"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, "host"),
        (["gs://data/pairs.csv"], {"STORAGE_EMULATOR_HOST": "localhost:9023"}, "host"),
        (["/data.csv", "http://[::1]:5000"], {}, "host"),
        (["https://localhost.example.org/pairs.csv"], {}, "bridge"),
        (["https://user:pw@localhost/pairs.csv"], {}, "host"),
    ],
)
def test_network(uris: list[str], environment: dict[str, str], network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLOPS_NOTIFY_URLS", "MLOPS_NOTIFY_URLS_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert containers._network(uris, environment) == network


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    passed = {
        "AWS_ACCESS_KEY_ID": "a",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "https_proxy": "http://proxy:1",
        "MLOPS_DATA_REVISION": "c0ffee",
    }
    for name, value in {
        **passed,
        "MY_AWS_KEY": "b",
        "GITHUB_TOKEN": "c",
        "PATH": "/bin",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    assert containers._environment(["/data.csv"]) == passed
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\n")
    assert containers._environment(["/data.csv"]) == passed
    credentials = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / ".aws" / "credentials")}
    assert containers._environment(["s3://data/pairs.csv"]) == {**passed, **credentials}


@docker_test
@pytest.mark.parametrize("kind", KINDS)
def test_an_image(engine: Any, call: Callable[..., str], kind: str) -> None:
    found = engine.images.get(image(kind))
    labels = found.labels
    assert labels["org.opencontainers.image.version"] == package_version()
    assert labels["org.opencontainers.image.revision"]
    user, group = found.attrs["Config"]["User"].split(":")
    assert int(user) > 0 and int(group) > 0
    assert ":latest" not in " ".join(found.tags)
    left = call(
        kind, "sh", "-c", "command -v gcc cc g++ make; ls -A ~root/.cache /var/cache /tmp /var/cache/apt/archives; true"
    )
    assert "gcc" not in left and "pip" not in left, left
    libraries = call(
        kind,
        *(
            "python3",
            "-c",
            "import importlib.util as u; print(*[n for n in ('tensorflow', 'evidently') if u.find_spec(n)])",
        ),
    )
    assert libraries.split() == {"trainer": ["tensorflow"], "monitor": ["evidently"]}.get(kind, [])


@docker_test
@pytest.mark.parametrize("kind", STEP_KINDS)
def test_a_step_finds_its_code_compiled(call: Callable[..., str], kind: str) -> None:
    """Imports are most of a step's time, and a read-only image can't keep what it compiles."""
    names = {"base": ["mlflow", "pandas"], "trainer": ["tensorflow.python.framework.ops"], "monitor": ["evidently"]}
    wanted = ["matchmaking.tracking.step", "kfp.dsl", "numpy", *names[kind]]
    code = (
        "import importlib, sys, time; from importlib import util\n"
        f"for name in {wanted}: importlib.import_module(name)\n"
        "for name, module in list(sys.modules.items()):\n"
        "    spec = getattr(module, '__spec__', None)\n"
        "    if spec and spec.has_location and spec.cached and spec.origin.startswith('/opt'):\n"
        "        mtime = spec.loader.path_stats(spec.origin)['mtime'] if hasattr(spec.loader, 'path_stats') else 0\n"
        "        with open(spec.cached, 'rb') as file: head = file.read(12)\n"
        "        assert int.from_bytes(head[8:12], 'little') == int(mtime), name\n"
        "print('compiled')"
    )
    assert call(kind, "python3", "-c", code).splitlines()[-1] == "compiled"


@docker_test
def test_the_client_image(call: Callable[..., str]) -> None:
    assert package_version() in call("client", "mlops", "--version")
    assert "retrain.yaml" in call("client", "mlops", "compile", "--out", "/tmp/build")


@docker_test
def test_the_mlflow_image(engine: Any) -> None:
    """It serves on a read-only root file system, without capabilities and as any user."""
    (port,) = free_ports(1)
    container = engine.containers.create(
        image("mlflow"),
        ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        **{**containers.options({}), "user": "12345:12345", "group_add": []},
        network_mode="host",
    )
    try:
        container.start()
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                    assert answer.read() == b"OK"
                break
            except OSError:
                container.reload()
                running = container.status == "running" and time.monotonic() < deadline
                assert running, container.logs().decode()[-2000:]
                time.sleep(0.5)
    finally:
        container.remove(force=True)
    drivers = ["python3", "-c", "import psycopg2, boto3, flask_wtf; print('drivers')"]
    assert b"drivers" in engine.containers.run(image("mlflow"), drivers, entrypoint="", remove=True)


@docker_test
@pytest.mark.parametrize("name", ["retrain", "monitor"])
def test_compiled_steps_run_in_the_images(
    engine: Any, name: str, incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cluster's pods run, which isn't what kfp.local does: each step by the name of its image's component."""
    plain, ran = containers._run_container, []

    def run_compiled(client: Any, image: str, command: list[str], volumes: Any, **options: Any) -> int:
        ran.append(as_compiled(name, command))
        return plain(client, image, ran[-1], volumes, **options)

    monkeypatch.setattr(containers, "_run_container", run_compiled)
    # a run sets it for its steps
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}")
    generate_file(tmp_path / "pairs.csv", 2_400, seed=1)
    places = {"data": str(tmp_path / "pairs.csv"), "production": str(incumbent)}
    if name == "retrain":
        places |= {"candidates": str(tmp_path / "candidates"), "algorithm": "dense", "epochs": "1"}
    arguments = {key: int(value) if value.isdecimal() else value for key, value in places.items()}
    outcome = run_pipeline(name, arguments, tmp_path / "work", runner="docker")
    assert outcome.exit_code == 0, (outcome.folder / "run.log").read_text()
    assert {tuple(command[:4]) for command in ran} == {("python3", "-P", "-m", "components.run")}
    steps = {
        "retrain": ["compare", "evaluate", "ingest", "report", "split", "train", "validate"],
        "monitor": ["drift", "ingest", "ingest", "report", "score", "validate", "validate"],
    }
    assert sorted(command[4] for command in ran) == steps[name]


@docker_test
def test_nothing_is_imported_from_where_a_step_stands(call: Callable[..., str]) -> None:
    """Neither by the images' Python, whoever calls it, nor by steps of `--runner docker`."""
    shadow = "cd /tmp && echo 'print(\"shadowed\")' >random.py && cp random.py matchmaking.py && "
    assert "shadowed" not in call("base", "sh", "-c", f"{shadow} python3 -m components.run --help")
    assert "shadowed" not in call("client", "sh", "-c", f"{shadow} python3 -c 'import random, matchmaking'")
