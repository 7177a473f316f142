"""What a pipeline is in a cluster, read off the compiled one: pods, critical path, the names people see, its size."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import PIPELINES
from pipelines.compile import compile_pipeline
from tests.workflow_size import CARRIERS, TIMES, workflow_bytes

# with those that a promotion by policy adds
PODS = {"retrain": 18, "sweep": 33, "evaluate": 11, "monitor": 15, "observe": 7, "experiment": 7, "promote": 5}
# at most, where a dataset has so many parts
PODS |= {"evaluate-parts": 50, "monitor-parts": 48}
CRITICAL = {
    "retrain": ["ingest", "validate", "split", "train", "evaluate", "compare", "report", "promote"],
    "sweep": ["ingest", "validate", "split", "trial", "choose", "train", "evaluate", "compare", "report", "promote"],
    "evaluate": ["ingest", "validate", "split", "evaluate", "report"],
    "evaluate-parts": ["plan", "shard", "merge", "report"],
    "monitor-parts": ["divide", "draw", "pool", "score", "drift", "report"],
    "monitor": ["ingest", "ingest-2", "validate-2", "score", "drift", "report"],
    "observe": ["collect", "observe", "report"],
    "experiment": ["gather", "experiment", "report"],
    "promote": ["check", "promote"],
}
# kB at the end of a run, see workflow_size.py; Argo compresses from 1 MiB on, etcd refuses 1.5 MiB
KILOBYTES = {
    **{"retrain": 450, "sweep": 709, "evaluate": 282, "monitor": 372},
    **{"observe": 180, "experiment": 170, "promote": 129, "evaluate-parts": 960, "monitor-parts": 968},
}
COSTS = ";".join(["validate current:12.35:10.12:1206"] * 8)


@cache
def compiled(name: str) -> str:
    return compile_pipeline(name)


@cache
def spec(name: str) -> Any:
    return next(yaml.safe_load_all(compiled(name)))


def steps_of(name: str) -> dict[str, set[str]]:
    """The steps and what each waits for: those of a group for what it waits for, and who waits for it for its steps."""
    found: dict[str, set[str]] = {}
    groups: dict[str, set[str]] = {}

    def walk(dag: dict[str, Any], outer: set[str]) -> None:
        for task, content in dag["tasks"].items():
            waits = outer | set(content.get("dependentTasks", []))
            component = spec(name)["components"][content["componentRef"]["name"]]
            if "dag" in component:
                walk(component["dag"], waits)
                groups[task] = set(component["dag"]["tasks"])
            else:
                found[task] = waits

    walk(spec(name)["root"]["dag"], set())
    return {task: waits.union(*(groups[each] for each in waits & groups.keys())) for task, waits in found.items()}


@pytest.mark.parametrize("name", PIPELINES)
def test_pods(name: str) -> None:
    """A driver and an executor for each step, and a driver for each DAG: the pipeline itself, and each condition.

    Of a loop there is such a DAG for each item, and one around them.
    """
    components = spec(name)["components"].values()
    dags = 1 + sum("dag" in component for component in components)
    looped = 1 + 3 * (TIMES[name] - 1) if name in TIMES else 0
    assert 2 * len(steps_of(name)) + dags + looped == PODS[name]
    assert PODS["retrain"] <= 18


@pytest.mark.parametrize("name", PIPELINES)
def test_critical_path(name: str) -> None:
    """The longest chain of steps that wait for each other: what can run side by side does."""
    waits = steps_of(name)

    def longest(task: str) -> list[str]:
        before = [longest(earlier) for earlier in waits[task] if earlier in waits]
        return [*max(before, key=len, default=[]), task]

    path = max((longest(task) for task in waits), key=len)
    assert [re.sub(r"-\d+$", "", task) for task in path] == [re.sub(r"-\d+$", "", task) for task in CRITICAL[name]]
    # nothing waits for a step whose results it doesn't use; the promotion uses the report's, and so comes last
    for task, content in spec(name)["root"]["dag"]["tasks"].items():
        used = set(re.findall(r"'producerTask': '([\w-]+)'", str(content.get("inputs", {}))))
        assert set(content.get("dependentTasks", [])) <= used, task
    if name in ("retrain", "sweep"):
        (condition,) = (task for task in spec(name)["root"]["dag"]["tasks"] if task.startswith("condition"))
        assert "report" in spec(name)["root"]["dag"]["tasks"][condition]["dependentTasks"]


def test_steps_stand_side_by_side_and_none_waits_for_the_end() -> None:
    """KFP's UI shows the graph of the top: the steps themselves, no group around them and no exit handler behind."""
    for name in PIPELINES:
        top = spec(name)["root"]["dag"]["tasks"]
        groups = [task for task, content in top.items() if content["componentRef"]["name"] not in executed(name)]
        wanted = {"retrain": ["condition-1"], "sweep": ["condition-3", "for-loop-2"]}
        wanted |= {"evaluate-parts": ["for-loop-1"], "monitor-parts": ["for-loop-1"]}
        assert sorted(groups) == wanted.get(name, [])
        assert not [content for content in top.values() if "strategy" in content.get("triggerPolicy", {})]


def executed(name: str) -> set[str]:
    return {label for label, component in spec(name)["components"].items() if "executorLabel" in component}


def test_artifacts_have_names_for_people() -> None:
    titles: dict[str, str] = {}
    for path in Path("components").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Name) and key.value[0].isupper():
                        titles[value.id] = key.value
    wanted = {"report": "Report", "decision": "Decision", "drift_report": "Drift report"}
    wanted |= {"candidate_roc": "ROC curve, candidate", "production_roc": "ROC curve, production"}
    assert wanted.items() <= titles.items()
    for name in PIPELINES:
        for component in spec(name)["components"].values():
            given = component.get("outputDefinitions", {}).get("artifacts", {})
            # of a loop's steps together, what one of them makes
            assert {re.sub(r"^pipelinechannel--\w+-", "", each) for each in given} <= titles.keys()
            assert not given.keys() & {"page", "short", "opened", "reports"}


@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_that_runs_carries_a_description(name: str) -> None:
    assert "description" not in str(spec(name)["components"])
    assert "def " not in str(spec(name)["deploymentSpec"])
    # the form that starts a run has them
    assert "description" in str(spec(name)["root"])


def test_a_pipeline_is_whole_again_after_it_was_compiled() -> None:
    from pipelines.evaluate import evaluate

    before = evaluate.pipeline_spec.SerializeToString(deterministic=True)
    compile_pipeline("evaluate")
    assert evaluate.pipeline_spec.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", PIPELINES)
def test_the_workflow_stays_small(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {"display_name": "Production model, scored", "rows": 12_000.0, "store_session_info": "{}"}
    size = workflow_bytes(compiled(name), metadata, COSTS) / 1000
    with capsys.disabled():
        print(f"\n{name}: {PODS[name]} pods, a Workflow of at most {size:.0f} kB")
    assert size <= KILOBYTES[name]


def test_costs_are_carried_by_what_the_next_steps_read() -> None:
    read = set()
    for name in PIPELINES:
        for dag in [spec(name)["root"]["dag"]]:
            for task in dag["tasks"].values():
                read |= {
                    re.sub(r"^pipelinechannel--\w+-", "", source["taskOutputArtifact"]["outputArtifactKey"])
                    for source in task.get("inputs", {}).get("artifacts", {}).values()
                    if "taskOutputArtifact" in source
                }
    assert read >= CARRIERS


@pytest.mark.parametrize(("name", "step"), [("evaluate-parts", "shard"), ("monitor-parts", "draw")])
def test_a_lost_shard_is_tried_again_alone(name: str, step: str) -> None:
    """The loop's step is retried, and neither the loop around all of its shards nor anything that waits for it."""
    top = spec(name)["root"]["dag"]["tasks"]
    loop = top["for-loop-1"]
    assert "retryPolicy" not in loop and loop["iteratorPolicy"] == {"parallelismLimit": TIMES[name]}
    inside = spec(name)["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    assert [*inside] == [step] and inside[step]["retryPolicy"]["maxRetryCount"] == 2
