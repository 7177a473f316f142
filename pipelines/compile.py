"""Compiling the pipelines to KFP's intermediate representation.

What is compiled is what runs in a cluster, where each step's component stands in the Workflow several times: in its own
arguments, in those of the step's driver, and in the pod's description, which is kept three times. Kubernetes limits a
Workflow's size, so what needn't travel stays behind: the source of a step, which its image holds (`components.run`),
the descriptions that the components' docstrings give, inputs that no task is given, and what KFP's SDK says twice, for
older servers and for newer ones. The descriptions of the pipeline's own parameters are for the UI's form, and go with
it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matchmaking.base.errors import cannot_write
from pipelines import PIPELINES, function

# what a pod's container runs, before the component's name; nothing is imported from where it stands
RUN = ["python3", "-P", "-m", "components.run"]

# how the names of a pipeline's parameters begin, where something of a task but its inputs is set by them
CHANNEL = "pipelinechannel--"


def compile_all(out: Path) -> list[Path]:
    """Writes `<pipeline>.yaml` for each pipeline into a folder; the same code gives the same bytes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"--out {out}", error) from error
    paths = [out / f"{name}.yaml" for name in PIPELINES]
    for path in paths:
        compiled = compile_pipeline(path.stem)
        try:
            path.write_text(compiled, encoding="utf-8")
        except OSError as error:
            raise cannot_write(path, error) from error
    return paths


def compile_pipeline(name: str) -> str:
    """One pipeline as YAML: the pipeline, and as a second document what its steps carry in Kubernetes."""
    from kfp.compiler import Compiler

    from pipelines.pods import retried

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # of image names without "python"
        warnings.simplefilter("ignore")
        pipeline = function(name)
        path = Path(folder) / "pipeline.yaml"
        with _lean(pipeline), retried(pipeline):
            try:
                Compiler().compile(pipeline, str(path))
            except OSError as error:
                raise cannot_write(path, error) from error
        return path.read_text(encoding="utf-8")


@contextmanager
def _lean(pipeline: Any) -> Iterator[None]:
    """For as long as it lasts, a pipeline holds no more than a cluster needs."""
    specs = (pipeline.pipeline_spec, pipeline.platform_spec)
    whole = [type(spec)() for spec in specs]
    for kept, spec in zip(whole, specs, strict=True):
        kept.CopyFrom(spec)
    for component in specs[0].components.values():
        for part in (component.input_definitions, component.output_definitions):
            for each in (*part.parameters.values(), *part.artifacts.values()):
                each.ClearField("description")
    _drop_unused_inputs(specs[0])
    for executor in specs[0].deployment_spec["executors"].values():
        _name_component(executor["container"])
        _drop_old_resources(executor["container"]["resources"])
    for pod in specs[1].platforms["kubernetes"].deployment_spec.executors.values():
        _drop_repeated_names(pod)
    try:
        yield
    finally:
        for kept, spec in zip(whole, specs, strict=True):
            spec.CopyFrom(kept)


def _drop_unused_inputs(spec: Any) -> None:
    """Takes away what a component could be given and no task of this pipeline gives, whose default the function has.

    And what tasks are given that is none of their component's: KFP's SDK adds `memory_limit` and `memory_request` where
    a pipeline's parameter sets them, but its driver looks for the parameter, under the name of the channel.
    """
    dags = [spec.root.dag, *(each.dag for each in spec.components.values())]
    given: dict[str, set[str]] = {}
    tasks: Counter[str] = Counter()
    for task in [task for dag in dags for task in dag.tasks.values()]:
        name, parameters = task.component_ref.name, task.inputs.parameters
        if spec.components[name].executor_label:
            known = spec.components[name].input_definitions.parameters
            for unknown in [each for each in parameters if each not in known and not each.startswith(CHANNEL)]:
                del parameters[unknown]
        tasks[name] += 1
        given.setdefault(name, set()).update(parameters, task.inputs.artifacts)
    for name, component in spec.components.items():
        if component.executor_label:
            for inputs in (component.input_definitions.parameters, component.input_definitions.artifacts):
                for unused in [each for each in inputs if each not in given[name] and inputs[each].is_optional]:
                    del inputs[unused]
            if tasks[name] == 1:
                # that they might be missing is nothing a pipeline need know where they aren't
                for artifact in component.input_definitions.artifacts.values():
                    artifact.ClearField("is_optional")


def _name_component(container: Any) -> None:
    """Has a container run its image's component of that name, in place of the source that it is given."""
    arguments = list(container["args"])
    name = arguments[arguments.index("--function_to_execute") + 1]
    container.update({"command": RUN, "args": [name, "--executor_input", "{{$}}"]})


def _drop_old_resources(resources: Any) -> None:
    """Takes away the numbers that older servers read; KFP passes them over where `resourceCpuLimit` and so on are."""
    for name in [each for each in resources if f"resource{each[0].upper()}{each[1:]}" in resources]:
        del resources[name]


def _drop_repeated_names(pod: Any) -> None:
    """Leaves one of the two ways in which a ConfigMap or a Secret is named, and no `optional` that says what holds."""
    for kind in ("configMap", "secret"):
        if f"{kind}AsEnv" not in pod:
            continue
        for source in pod[f"{kind}AsEnv"]:
            del source[f"{kind}NameParameter"]
            if not source["optional"]:
                del source["optional"]
