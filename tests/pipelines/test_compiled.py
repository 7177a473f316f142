"""Compiled pipelines: what each step carries into a cluster, read from the YAML that goes there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.run import names
from matchmaking.base.errors import InputError, MlopsError
from mlops.kubeflow.submit import compiled
from pipelines import PIPELINES, memory
from pipelines.compile import compile_all, compile_pipeline

# what the manifests have, by name and key
SECRETS = {
    "mlops-pipeline": {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    },
    "mlops-notify": {"urls"},
}
SECRETS["mlops-promotion"] = SECRETS["mlops-pipeline"]
SETTINGS = {"MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
STORAGE = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
TRACKING = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
# read by the code, and not a step's to be given
ELSEWHERE = {
    "MLOPS_CODE_VERSION",  # the images have it
    "MLOPS_REGISTRY",  # of whom compiles
    "MLOPS_TAG",
    "MLOPS_KFP_HOST",  # of whom submits
    "MLOPS_RUN_NAME",
    "MLOPS_CURRENT",
    "MLOPS_NODE_MEMORY",
    "MLOPS_DATA_REVISION",  # of whom runs a pipeline on a version of the data, here
    "MLOPS_NOTIFY_URLS_FILE",  # the other way to say MLOPS_NOTIFY_URLS
    "MLOPS_EXPERIMENT_STOP_OUTSIDE",  # `--runner docker` gives it
    "KFP_RETRY_INDEX",  # KFP sets them
    "KFP_POD_NAME",
    "KUBERNETES_SERVICE_HOST",  # Kubernetes sets it
}
LOOKS = {"observe", "report"}
READS_STORAGE = {"collect", "ingest", "plan", "shard", "divide", "draw", "report", "check", "promote", "gather"}
UNITS = {"Mi": 1, "Gi": 1024}
# peak MB at 12,000 rows and at 1.2 million, by `make bench`, of steps that hardly grow with the data
FLAT = {
    "ingest": (176, 178),
    # with a package; of 1.2 million rows at most what packaging (224) and reporting (258) took as steps of their own
    "report": (283, 482),
}


@pytest.fixture(scope="module")
def steps() -> dict[tuple[str, str], dict[str, Any]]:
    """By pipeline and task: the task, its container, its component's name, and what Kubernetes is told of it."""
    found = {}
    for pipeline in PIPELINES:
        spec, platform = yaml.safe_load_all(compiled(pipeline))
        executors = spec["deploymentSpec"]["executors"]
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert pods.keys() == executors.keys()
        dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
        for name, task in [item for dag in dags for item in dag["tasks"].items()]:
            component = spec["components"][task["componentRef"]["name"]]
            if label := component.get("executorLabel"):
                found[pipeline, name] = {
                    "task": task,
                    "component": re.sub(r"-\d+$", "", name),
                    "container": executors[label]["container"],
                    "pod": pods[label],
                }
    return found


def environment(step: dict[str, Any]) -> dict[str, tuple[str, str, bool]]:
    """Variables of a step: the Secret's or ConfigMap's name, the key, and whether it may be missing."""
    found = {}
    for kind, key in (("secretAsEnv", "secret"), ("configMapAsEnv", "configMap")):
        for source in step["pod"].get(kind, []):
            for entry in source["keyToEnv"]:
                found[entry["envVar"]] = (source[f"{key}Name"], entry[f"{key}Key"], source.get("optional", False))
    return found


def test_what_a_step_is_told_and_no_more(steps: Any) -> None:
    for (pipeline, name), step in steps.items():
        found = environment(step)
        wanted = TRACKING | (STORAGE if step["component"] in READS_STORAGE else set())
        assert {variable for variable, (_, _, optional) in found.items() if not optional} == wanted, (pipeline, name)
        own = "mlops-promotion" if step["component"] == "promote" else "mlops-pipeline"
        for variable, (source, key, optional) in found.items():
            if source == "mlops-settings":
                assert key == variable
                assert optional or key in SETTINGS
            else:
                assert key in SECRETS[source]
                assert source in (own, "mlops-notify")
                assert optional == (source == "mlops-notify")


def test_who_is_told_where_people_open_the_uis(steps: Any) -> None:
    """Who opens the run records it there, for the others, and a promotion tells of itself without asking."""
    told = {(of, name) for (of, name), step in steps.items() if "MLOPS_MLFLOW_URL" in environment(step)}
    ingests = {("retrain", "ingest"), ("evaluate", "ingest"), ("monitor", "ingest"), ("monitor", "ingest-2")}
    ingests |= {("observe", "collect"), ("experiment", "gather"), ("sweep", "ingest")}
    ingests |= {("evaluate-parts", "plan"), ("monitor-parts", "divide")}
    promotions = {(of, "promote") for of in ("promote", "retrain", "sweep")}
    assert told == {*ingests, *promotions, ("promote", "check")}


def test_who_looks_at_alerts_is_told_the_policy(steps: Any) -> None:
    told = {(of, name) for (of, name), step in steps.items() if "MLOPS_POLICY" in environment(step)}
    assert told >= {("evaluate", "report"), ("monitor", "report")}
    assert not any(of in ("retrain", "sweep", "promote") or name not in LOOKS for of, name in told)


def test_every_variable_that_the_code_reads_is_given(steps: Any) -> None:
    """Who reads a new variable in a step must say where a pod gets it from."""
    read = set()
    for path in [*Path("matchmaking").rglob("*.py"), *Path("components").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            for text in [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []:
                if re.fullmatch(r"(MLOPS|KFP|KUBERNETES|MLFLOW_TRACKING|AWS)_[A-Z_]+", text):
                    read.add(text)
    assert {"MLOPS_RESTART_COMMAND", "MLFLOW_TRACKING_URI", "MLOPS_NOTIFY_URLS"} <= read
    given = set().union(*(environment(step) for step in steps.values()))
    # a token is the other way to log in, and boto3 has its own default of attempts
    assert read - ELSEWHERE - given <= {
        "AWS_SESSION_TOKEN",
        "AWS_MAX_ATTEMPTS",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_",
    }
    assert {"MLOPS_RESTART_COMMAND", "MLOPS_RESTART_TIMEOUT"} <= environment(steps["promote", "promote"]).keys()
    stopping = {
        (of, name) for (of, name), step in steps.items() if "MLOPS_EXPERIMENT_STOP_COMMAND" in environment(step)
    }
    assert stopping == {("experiment", "report")}


def _cpus(amount: str) -> float:
    return float(amount.removesuffix("m")) / 1000 if amount.endswith("m") else float(amount)


def test_each_step_runs_its_images_component(steps: Any) -> None:
    for (_, name), step in steps.items():
        component = name.removesuffix("-2")
        assert step["container"]["command"] == ["python3", "-P", "-m", "components.run"]
        assert step["container"]["args"] == [component, "--executor_input", "{{$}}"]
        assert component in names()


def test_a_component_knows_what_its_tasks_are_given_and_no_more() -> None:
    """What the function's defaults give needn't stand in each copy of a step's interface."""
    for pipeline in PIPELINES:
        spec = next(yaml.safe_load_all(compiled(pipeline)))
        dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
        given: dict[str, set[str]] = {}
        for task in [task for dag in dags for task in dag["tasks"].values()]:
            inputs = task.get("inputs", {})
            # a loop gives its group an item each time
            item = {task["parameterIterator"]["itemInput"]} if "parameterIterator" in task else set()
            given.setdefault(task["componentRef"]["name"], item).update(
                inputs.get("parameters", {}), inputs.get("artifacts", {})
            )
        for name, component in spec["components"].items():
            inputs = component.get("inputDefinitions", {})
            known = {*inputs.get("parameters", {}), *inputs.get("artifacts", {})}
            # of which a step's memory, or a dict that it is given, is made
            assert all(more.startswith("pipelinechannel--") for more in given[name] - known), (pipeline, name)
            assert known <= given[name], (pipeline, name)


def test_resources_fit_what_was_measured(steps: Any) -> None:
    for (_, name), step in steps.items():
        resources = step["container"]["resources"]
        amounts = [resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]]
        request, limit = (_cpus(resources[f"resourceCpu{kind}"]) for kind in ("Request", "Limit"))
        assert request <= limit <= 2
        assert request <= 1
        if step["component"] in memory.NEEDS:
            # by the run's parameter, which the driver looks for under this name
            assert amounts == ["{{$.inputs.parameters['pipelinechannel--memory']}}"] * 2
            assert "pipelinechannel--memory" in step["task"]["inputs"]["parameters"]
            continue
        request, limit = (int(text[:-2]) * UNITS[text[-2:]] * 1.048576 for text in amounts)
        small, large = FLAT.get(step["component"], (220, 260))
        assert small + 60 <= request, name
        assert large + 60 <= limit, name


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_a_task_takes_of_its_group_is_there(pipeline: str) -> None:
    spec = next(yaml.safe_load_all(compiled(pipeline)))
    for group in (spec["root"], *spec["components"].values()):
        there = set(group.get("inputDefinitions", {}).get("parameters", {}))
        for task in group.get("dag", {}).get("tasks", {}).values():
            taken = {
                value["componentInputParameter"]
                for value in task.get("inputs", {}).get("parameters", {}).values()
                if "componentInputParameter" in value
            }
            assert taken <= there


@pytest.mark.parametrize("pipeline", memory.STEPS)
def test_memory_by_rows(pipeline: str, steps: Any) -> None:
    tasks = {step["component"] for (own, _), step in steps.items() if own == pipeline}
    assert set(memory.STEPS[pipeline]) == tasks & set(memory.NEEDS)
    spec = next(yaml.safe_load_all(compiled(pipeline)))
    # two steps at once fit a small cluster beside the platform
    assert memory.in_bytes(memory.of_rows(pipeline, 12_000)) <= 1.25 * 2**30
    assert spec["root"]["inputDefinitions"]["parameters"]["memory"]["defaultValue"] == memory.DEFAULT
    for rows in (1_000, 700_000, 3_000_000):
        amount = memory.of_rows(pipeline, rows)
        assert memory.rows_within(pipeline, amount) >= rows
        megabytes = memory.in_bytes(amount) / 1e6
        for step in memory.STEPS[pipeline]:
            assert memory.NEEDS[step].at(rows) + 60 <= megabytes


@pytest.mark.parametrize(
    ("text", "amount"), [("6Gi", 6 * 2**30), ("1.5G", 15 * 10**8), ("512", 512), ("900Mi", 900 * 2**20)]
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert memory.in_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "0", "6 Gi", "6gi", "-1Gi", "lots", "6GB"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(InputError, match="is no amount of memory"):
        memory.in_bytes(text)


def test_each_pod_is_shut_in_and_ends(steps: Any) -> None:
    for step in steps.values():
        pod = step["pod"]
        assert pod["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert pod["imagePullPolicy"] == "IfNotPresent"
        assert 600 <= int(pod["activeDeadlineSeconds"]) <= 7200
        retry = step["task"]["retryPolicy"]
        assert retry["maxRetryCount"] == 2
        assert retry["backoffDuration"] == "5s"
        # Argo counts it from the first attempt's start, and ends a later one that still runs then: each of three may be
        # lost in its last second, wait an hour for a node, and the last has its whole time
        limit, until = int(pod["activeDeadlineSeconds"]), int(retry["backoffMaxDuration"][:-1])
        assert until == {1800: 16_200, 7200: 32_400}[limit]
        lost = started = 0
        for wait in (5, 10):
            lost = started + limit
            assert lost + wait < until
            started = lost + wait + 3600
        assert started + limit <= until


def test_what_reads_or_writes_the_world_is_never_cached(steps: Any) -> None:
    cached = {step["component"] for step in steps.values() if step["task"]["cachingOptions"].get("enableCache")}
    modelling = {"validate", "split", "trial", "train", "evaluate", "compare", "score", "merge", "pool"}
    assert cached == {*modelling, "drift", "experiment"}
    # a hit is the same run's work, since the run is among the inputs
    for step in steps.values():
        if step["component"] in cached:
            assert "run_id" in step["task"]["inputs"]["parameters"]


def test_no_free_text_stands_inside_a_constant(steps: Any) -> None:
    """KFP's launcher puts it into a step's JSON as it is; a quotation mark in it would end the string."""
    found = set()
    for step in steps.values():
        for value in step["task"]["inputs"]["parameters"].values():
            constant = json.dumps(value.get("runtimeValue", {}).get("constant"))
            found |= set(re.findall(r"\{\{\$\.inputs\.parameters\['pipelinechannel--([\w-]+)'\]\}\}", constant))
    assert found == {"algorithm", "seed", "split"}


def test_names_for_people(steps: Any) -> None:
    for pipeline in PIPELINES:
        titles = [step["task"]["taskInfo"]["name"] for (of, _), step in steps.items() if of == pipeline]
        assert len(set(titles)) == len(titles)
        assert all(re.fullmatch(r"[A-Z][\w' -]+", title) and len(title) <= 32 for title in titles), titles


def test_one_file_a_pipeline_without_a_secret_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: f"sentinel-of-{name}" for name in (*SECRETS["mlops-pipeline"], "MLOPS_NOTIFY_URLS")}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    paths = compile_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.yaml" for name in PIPELINES}
    for path in paths:
        text = path.read_text()
        assert len(list(yaml.safe_load_all(text))) == 2
        assert text == compile_pipeline(path.stem)
        assert "sentinel-of" not in text
        assert str(Path.cwd()) not in text


def test_a_final_failure_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a cluster retries what failed, and not only what was lost, the next attempt says why and ends at once."""
    from matchmaking import tracking
    from matchmaking.base.errors import InputError
    from matchmaking.tracking.step import step

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracking.client.cache_clear()
    run_id, _ = tracking.start_run("retrain", "20260101T000000Z", "job", {})
    ran = []

    def attempt(error: Exception | None) -> None:
        with step("validate", run_id):
            ran.append(error)
            if error:
                raise error

    monkeypatch.setenv("KFP_RETRY_INDEX", "1")  # the pod before this one was lost
    attempt(None)
    with pytest.raises(SystemExit):
        attempt(InputError("column 'rating' is missing"))
    monkeypatch.setenv("KFP_RETRY_INDEX", "2")
    with pytest.raises(SystemExit) as ended:
        attempt(None)
    assert len(ran) == 2
    assert ended.value.code == 1
    assert "not tried again: validate: column 'rating' is missing" in capsys.readouterr().out
    # started anew by a person: what was wrong may be right now
    monkeypatch.setenv("KFP_RETRY_INDEX", "0")
    attempt(None)
    tracking.client.cache_clear()
    with pytest.raises(MlopsError):
        tracking.failure("0" * 32)
