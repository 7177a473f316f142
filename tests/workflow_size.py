"""How large the Workflow of a compiled pipeline gets: an estimate from above, as KFP 2.17 and Argo 4 make it.

A Workflow is one object, whose size Kubernetes' store limits. KFP's compiler (backend/src/v2/compiler/argocompiler)
puts each component's interface, its container with the source, and what it carries in Kubernetes into the Workflow's
arguments, as JSON in a string. When a step's driver runs, Argo keeps its inputs, which are all these once more, and its
output: a patch of the pod (initPodSpecPatch of backend/src/v2/driver/driver.go) that holds the step's values, its
artifacts with their metadata, its component's interface and its command with the source. That is kept again with each
node it is handed to: the executor, the node that retries it, and its pod. JSON inside JSON inside JSON: each level
escapes the quotation marks of the one below.

What cannot be read off the pipeline (Argo's own records, and who manages which field) comes with a factor: it is what
two pipelines had on a cluster with Kubeflow Pipelines 2.17.0, 886 and 707 kB, over what is counted here of these two,
1.44 and 1.43.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from matchmaking.inputs.divide import SHARDS_OF_TWO
from matchmaking.inputs.plan import SHARDS
from matchmaking.model.sweep.propose import PARTS

# of one node, driver or executor, without its parameters; of the templates and Argo's own fields
NODE = 1_500
TEMPLATES = 25_000
TASK_TEMPLATE = 1_200
LAUNCHER = 1_000
# a URI in the object store, and a URI or a policy that a user gives
URI = "minio://mlpipeline/v2/artifacts/retrain/" + "0" * 36 + "/evaluate/" + "0" * 36 + "/production_model"
VALUE = "s3://mlops-datasets/a/rather/long/name/of/a/dataset/pairs.csv"
# the nodes that keep a pod's patch, as seen on a cluster: the driver that makes it, the executor, and its pod
COPIES = 3
FACTOR = 1.44
# the outputs whose metadata has the costs of the steps so far
CARRIERS = {"raw", "pairs", "test", "candidate", "evaluation", "decision", "scored_reference", "result"}
CARRIERS |= {"logs", "live", "choice", "division", "counted"}
# how often a loop's steps run at the most
TIMES = {"sweep": PARTS, "evaluate-parts": SHARDS, "monitor-parts": SHARDS_OF_TWO}
# the scores of a part of a sweep: some eight trials' numbers
SCORES = "[[123.456,1.234567,1234.5],[" + ",".join(
    ["[123,0.123456,0.123456,123.123456,60,[" + "0.123456," * 20 + "]]"] * 2
)


def workflow_bytes(compiled: str, metadata: dict[str, Any], costs: str, policy: str = "") -> int:
    """The size of a run's Workflow at its end, from above.

    Args:
        compiled: the pipeline's YAML.
        metadata: what each artifact holds, at the most.
        costs: what those of `CARRIERS` have besides, as `steps`.
        policy: the text of a policy, where one is given.
    """
    spec, platform = yaml.safe_load_all(compiled)
    executors = spec["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    total = TEMPLATES + 2 * _in_string(spec["root"]) + 2 * len(policy)
    for component in spec["components"].values():
        label = component.get("executorLabel")
        total += _in_string(component)
        if label:
            total += _in_string(executors[label]["container"]) + _in_string(pods.get(label, {}))
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    times = _times(spec)
    for task in [task for dag in dags for task in dag["tasks"].values()]:
        name = task["componentRef"]["name"]
        component = spec["components"][name]
        label = component.get("executorLabel")
        total += TASK_TEMPLATE + times.get(name, 1) * (2 * _in_string(task) + _in_string(component) + 2 * NODE)
        if label is None:
            continue
        container, pod = executors[label]["container"], pods.get(label, {})
        patch = _patch(component, container, pod, _metadata(task, metadata, costs), policy)
        total += times.get(name, 1) * (_in_string(container) + _in_string(pod) + COPIES * (_in_string(patch) + NODE))
    return round(FACTOR * total)


def _times(spec: dict[str, Any]) -> dict[str, int]:
    """How often the components of a loop are there each time with the group that is around them."""
    loops = [
        task["componentRef"]["name"] for task in spec["root"]["dag"]["tasks"].values() if "parameterIterator" in task
    ]
    times = TIMES[spec["pipelineInfo"]["name"]] if loops else 0
    inside = {
        task["componentRef"]["name"]: times
        for loop in loops
        for task in spec["components"][loop]["dag"]["tasks"].values()
    }
    # and the one around all of them
    return {**inside, **{loop: times + 1 for loop in loops}}


def _metadata(task: dict[str, Any], metadata: dict[str, Any], costs: str) -> dict[str, dict[str, Any]]:
    """What each input artifact of a task holds."""
    given = task.get("inputs", {}).get("artifacts", {})
    return {
        name: {**metadata, **({"steps": costs} if _key(source) in CARRIERS else {})} for name, source in given.items()
    }


def _key(source: dict[str, Any]) -> str:
    if "taskOutputArtifact" not in source:
        return "candidate"
    # of a loop, whose outputs are named after their steps
    return str(source["taskOutputArtifact"]["outputArtifactKey"]).rpartition("-")[2]


def _in_string(value: Any) -> int:
    """The bytes of a value as JSON inside a string inside the Workflow's JSON."""
    return len(json.dumps(json.dumps(value, separators=(",", ":"))))


def _patch(
    component: dict[str, Any],
    container: dict[str, Any],
    pod: dict[str, Any],
    metadata: dict[str, dict[str, Any]],
    policy: str,
) -> dict[str, Any]:
    artifact = {"name": "projects/0/artifacts/0", "type": {"instanceSchema": ""}, "uri": URI}
    inputs, outputs = (component.get(f"{way}Definitions", {}) for way in ("input", "output"))
    known = {"policy": policy, "results": [SCORES] * PARTS}
    values = {name: known.get(name, VALUE) for name in inputs.get("parameters", {})}
    executor_input = {
        "inputs": {
            "parameterValues": values,
            "artifacts": {
                name: {"artifacts": [{**artifact, "metadata": has}] * (SHARDS if _is_list(inputs, name) else 1)}
                for name, has in metadata.items()
            },
        },
        "outputs": {
            "parameters": {name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in outputs.get("parameters", {})},
            "artifacts": {name: {"artifacts": [artifact]} for name in outputs.get("artifacts", {})},
            "outputFile": "/tmp/kfp_outputs/output_metadata.json",
        },
    }
    given = json.dumps(executor_input, separators=(",", ":"))
    interface = json.dumps(component, separators=(",", ":"))
    command = ["-" * LAUNCHER, given, interface, *container["command"], *container["args"]]
    main = {"name": "main", "command": command, "env": _env(pod), "resources": container["resources"]}
    others = {key: value for key, value in pod.items() if not key.endswith("AsEnv")}
    return {"containers": [{**main, "image": container["image"]}], **others}


def _is_list(inputs: dict[str, Any], name: str) -> bool:
    """Whether an artifact is all that a loop's steps have made."""
    return bool(inputs["artifacts"][name].get("isArtifactList"))


def _env(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The variables as Kubernetes has them: each says whose key it is."""
    return [
        {
            "name": each["envVar"],
            "valueFrom": {
                f"{kind}KeyRef": {
                    "name": source[f"{kind}Name"],
                    "key": each[f"{kind}Key"],
                    **({"optional": source["optional"]} if "optional" in source else {}),
                }
            },
        }
        for kind in ("configMap", "secret")
        for source in pod.get(f"{kind}AsEnv", [])
        for each in source["keyToEnv"]
    ]
