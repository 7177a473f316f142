"""What every pipeline step does around its one call: measure itself, and fail in a way that is told in one line.

A step's cost travels with the artifacts: the metadata of its first output holds `steps`, the costs of the step that
wrote it and of all before it, so that the last step knows them all whether it runs in a subprocess, a container or a
pod. They are a short text: of a list, KFP's metadata store makes a struct, and what is in metadata stands three times
in the Workflow with each pod that reads it, every quotation mark escaped anew, while a Workflow's size is limited.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# how the command line finds the reason of a failed step in its output
ERROR_MARK = "MLOPS-ERROR "
# how it finds out that the MLflow run is recorded as running still
UNMARKED = "MLOPS-UNMARKED could not mark as FAILED the MLflow run"
# and the outcome of a run in a cluster, in the output of its last step
SUMMARY_MARK = "MLOPS-SUMMARY "


class HasMetadata(Protocol):
    """A KFP artifact, as far as this module cares."""

    metadata: dict[str, Any]


@dataclass
class Running:
    """The step that is running.

    Attributes:
        name: its name.
        run_id: the MLflow run that is marked FAILED when the step fails; empty for none.
    """

    name: str
    run_id: str

    def open_run(self, pipeline: str, timestamp: str, job_id: str, params: Mapping[str, Any]) -> tuple[str, str]:
        """Opens the pipeline's MLflow run, as its first step does; a step that is tried again finds the run it opened.

        Args:
            pipeline: its name.
            timestamp: UTC, as in 20260131T235959Z; empty for now.
            job_id: identifies this execution of the pipeline.
            params: what the run was asked to do.

        Returns:
            The run's id and its time stamp.

        Raises:
            TrackingError: MLflow cannot be reached.
            InputError: a seed that not everything here can be seeded with.
            SystemExit: the step failed before, and that was final.
        """
        from matchmaking.base.errors import InputError
        from matchmaking.base.settings import MAX_SEED
        from matchmaking.tracking.runs import now, start_run

        self.run_id, timestamp = start_run(pipeline, timestamp or now(), job_id, params)
        _stop_if_final(self.name, self.run_id)
        # within a dict KFP makes a text of a number
        if not 0 <= float(params.get("seed", 0)) <= MAX_SEED:
            raise InputError(f"seed {params['seed']}: give a whole number from 0 to {MAX_SEED}")
        return self.run_id, timestamp

    def tell_dataset(self, version: str) -> None:
        """Records the md5 of the run's dataset with it.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        from matchmaking.tracking.runs import DATASET_TAG, tag_run

        tag_run(self.run_id, {DATASET_TAG: version})


@dataclass
class _Imports:
    seconds: float = 0.0
    depth: int = 0


# one process is one step
_imports = _Imports()
# the kernel counts in KiB, but for macOS, which counts in bytes
_RSS_PER_MB = 1024**2 if sys.platform == "darwin" else 1024


@contextmanager
def step(
    name: str, run_id: str, outputs: Mapping[str, HasMetadata] | None = None, inputs: Iterable[Any] = ()
) -> Iterator[Running]:
    """Runs one step: measures it, and on failure says why and marks the MLflow run.

    Args:
        name: the step's name.
        run_id: the MLflow run to mark FAILED when the step fails; empty for none, or for one that the step opens.
        outputs: its artifacts, by the names that people see in KFP's UI; the first carries this step's cost and
            those of the inputs' steps, so it is one that the steps after this one read.
        inputs: artifacts of earlier steps; None among them is passed over.

    Raises:
        SystemExit: the step failed for a reason told in one line; the code is the error's exit code.
    """
    from matchmaking.base.errors import NO_ROOM, MlopsError, cannot_write

    _stop_if_final(name, run_id)
    # what has passed since the process began went into starting Python and the KFP executor: imports as well
    _imports.seconds = _process_age()
    running = Running(name, run_id)
    try:
        with _timed_imports():
            yield running
    except Exception as raised:
        error = raised
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            error = cannot_write(error.filename or "a file", error)
        known = isinstance(error, MlopsError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        code = error.exit_code if isinstance(error, MlopsError) else 1
        _tell_error(name, code, reason)
        marked = _mark_failed(running.run_id, f"{name}: {reason}")
        if not (isinstance(error, MlopsError) and error.told):
            _tell_failed(running.run_id if marked else "", f"{name}: {reason}")
        if known:
            sys.exit(code)
        raise
    costs = as_text([*collect(inputs), own_cost(name)])
    for place, (title, artifact) in enumerate((outputs or {}).items()):
        artifact.metadata["display_name"] = title
        if place == 0:
            artifact.metadata["steps"] = costs


def tell_summary(summary: dict[str, Any]) -> None:
    """Prints the outcome of a run as one line, in a pod: the log is what `mlops submit` can read of it from outside."""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        print(SUMMARY_MARK + json.dumps(summary), flush=True)


def collect(artifacts: Iterable[Any]) -> list[dict[str, Any]]:
    """The costs of all steps behind some artifacts, each step once, in the order they ran."""
    costs: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        for cost in costs_of(artifact.metadata) if artifact is not None else []:
            costs.setdefault(cost["step"], cost)
    return list(costs.values())


def summed(artifacts: Iterable[Any]) -> list[dict[str, Any]]:
    """`collect` of steps that ran side by side under one name: seconds added up, memory that of the largest."""
    costs: dict[str, dict[str, Any]] = {}
    seen = set()
    for artifact in artifacts:
        for cost in costs_of(artifact.metadata):
            # what came before them all, each of them tells in the same words
            if as_text([cost]) in seen:
                continue
            seen.add(as_text([cost]))
            known = costs.setdefault(cost["step"], {**cost, "wall_seconds": 0.0, "import_seconds": 0.0})
            known["wall_seconds"] += cost["wall_seconds"]
            known["import_seconds"] += cost["import_seconds"]
            known["peak_mb"] = max(known["peak_mb"], cost["peak_mb"])
    return list(costs.values())


def costs_of(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The costs that an artifact's metadata holds: `step`, `wall_seconds`, `import_seconds`, `peak_mb` of each."""
    found = []
    for text in str(metadata.get("steps") or "").split(";"):
        if text:
            name, wall, imports, peak = text.split(":")
            found.append(
                {
                    "step": name,
                    "wall_seconds": float(wall),
                    "import_seconds": float(imports),
                    "peak_mb": float(peak),
                }
            )
    return found


def as_text(costs: Iterable[Mapping[str, Any]]) -> str:
    """Costs as the text that an artifact's metadata holds."""
    # four digits tell enough, and each is kept a hundred times
    return ";".join(f"{c['step']}:{c['wall_seconds']:.4g}:{c['import_seconds']:.4g}:{c['peak_mb']:.4g}" for c in costs)


def own_cost(name: str) -> dict[str, Any]:
    """What the step that is running has cost so far; its memory is that of the largest of its processes."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "step": name,
        "wall_seconds": round(_process_age(), 3),
        "import_seconds": round(_imports.seconds, 3),
        "peak_mb": round(peak / _RSS_PER_MB, 1),
    }


def _process_age() -> float:
    """Seconds since this process began."""
    try:
        # psutil counts from the boot time in whole seconds, so it may be off by one; this clock is the kernel's own
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        import psutil

        return time.time() - psutil.Process().create_time()


@contextmanager
def _timed_imports() -> Iterator[None]:
    """Adds up the time inside outermost import statements: libraries here are imported where they are used.

    No garbage is collected in them, which takes a tenth of the time.
    """
    from matchmaking.base.garbage import without_collections

    plain = builtins.__import__

    imports = _imports

    def timed(*args: Any, **kwargs: Any) -> Any:
        imports.depth += 1
        start = time.perf_counter()
        try:
            with without_collections():
                return plain(*args, **kwargs)
        finally:
            imports.depth -= 1
            if imports.depth == 0:
                imports.seconds += time.perf_counter() - start

    builtins.__import__ = timed
    try:
        yield
    finally:
        builtins.__import__ = plain


def _tell_error(name: str, code: int, reason: str) -> None:
    error = {"step": name, "exit_code": code, "message": " ".join(reason.split())}
    print(ERROR_MARK + json.dumps(error), flush=True)


def _stop_if_final(name: str, run_id: str) -> None:
    """Ends a step that is tried again (KFP counts in KFP_RETRY_INDEX) although its failure was told to be final."""
    if not run_id or os.environ.get("KFP_RETRY_INDEX", "0") in ("", "0"):
        return
    from matchmaking.base.errors import MlopsError
    from matchmaking.tracking import runs

    try:
        reason = runs.failure(run_id)
    except MlopsError:
        return  # the step itself will tell, if it needs the server
    if reason is not None:
        _tell_error(name, 1, f"not tried again: {reason}")
        sys.exit(1)


def _mark_failed(run_id: str, reason: str) -> bool:
    """Whether the run's record could be marked, so that it can be linked to."""
    if not run_id:
        return False
    from matchmaking.tracking import runs

    try:
        runs.fail_run(run_id, reason)
        return True
    except Exception as error:
        from matchmaking.base.escape import for_terminal

        # the step's own failure is what must be told; this one only in the log
        print(for_terminal(f"{UNMARKED} {run_id}: {' '.join(str(error).split())}"), flush=True)
        return False


def _tell_failed(run_id: str, reason: str) -> None:
    from matchmaking.tracking import notify

    if notify.configured():
        from matchmaking.tracking import runs

        where = runs.links(run_id) if run_id else ["no MLflow run tells of it"]
        notify.send("failed", "A pipeline run failed", "\n".join([reason, *where]))
