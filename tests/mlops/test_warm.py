"""Steps forked from warm processes: as isolated as those started anew, with the same results, and nothing left over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlops.local import warm
from mlops.local.run import run_pipeline

pytestmark = pytest.mark.skipif(not warm.SUPPORTED, reason="steps are forked on Linux only")

MODULE = "mlops.local.warm"
Run = Callable[..., tuple[int | None, str]]


@pytest.fixture
def nursery() -> Iterator[warm.Nursery]:
    with warm.Nursery("evaluate") as found:
        yield found


@pytest.fixture
def run(nursery: warm.Nursery, tmp_path: Path) -> Run:
    def run(body: str, component: str = "validate", **env: str) -> tuple[int | None, str]:
        """The exit code and the output of a step with this body."""
        source = tmp_path / "ephemeral_component.py"
        source.write_text(f"def {component}():\n" + "".join(f"    {line}\n" for line in body.splitlines()))
        given = {"inputs": {}, "outputs": {"outputFile": str(tmp_path / "output.json")}}
        arguments = ["--component_module_path", str(source), "--function_to_execute", component]
        arguments += ["--executor_input", json.dumps(given)]
        reading, writing = os.pipe()
        with os.fdopen(reading) as printed:
            step = nursery.step(component, arguments, {**os.environ, **env}, writing)
            os.close(writing)
            assert step is not None
            said = printed.read()
        return warm.code(step), said

    return run


def test_a_step_has_its_own_environment_output_and_exit_code(run: Run) -> None:
    # in an environment that the warm process never had
    code, said = run("import os, sys\nprint('mark', os.environ['MARK'])\nsys.exit(7)", MARK="here")
    assert code == 7 and "mark here" in said
    code, said = run("import os\nprint('mark', os.environ.get('MARK'))")
    assert code == 0 and "mark None" in said


def test_what_a_step_raises_is_a_traceback_and_code_one(run: Run) -> None:
    code, said = run("raise ValueError('of this kind')")
    assert code == 1 and "Traceback" in said and "ValueError: of this kind" in said


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
def test_a_step_that_crashes_takes_nothing_along(run: Run, how: str) -> None:
    code, _ = run(f"import os, signal\n{how}")
    assert code in (-signal.SIGKILL, -signal.SIGABRT)
    code, said = run("print('the next one')")
    assert code == 0 and "the next one" in said


def test_of_several_steps_at_once_each_has_its_own_end(nursery: warm.Nursery, tmp_path: Path) -> None:
    """The first ends last: nobody takes another's exit code for its own, or waits for another's end."""
    ends, waiting = {}, []
    for name, body in (("slow", "import time; time.sleep(3); raise SystemExit(3)"), ("quick", "raise SystemExit(4)")):
        source = tmp_path / f"{name}.py"
        source.write_text(f"def trial():\n    print('{name}', flush=True)\n    {body}\n")
        given = json.dumps({"inputs": {}, "outputs": {"outputFile": str(tmp_path / f"{name}.json")}})
        arguments = ["--component_module_path", str(source), "--function_to_execute", "trial"]
        reading, writing = os.pipe()
        step = nursery.step("validate", [*arguments, "--executor_input", given], dict(os.environ), writing)
        os.close(writing)
        assert step is not None
        waiting.append((name, step, reading))
    for name, step, reading in reversed(waiting):
        with os.fdopen(reading) as printed:
            assert name in printed.read()
        begun = time.monotonic()
        ends[name] = (warm.code(step), time.monotonic() - begun)
    assert {name: code for name, (code, _) in ends.items()} == {"quick": 4, "slow": 3}


def test_a_step_changes_nothing_for_the_next(run: Run) -> None:
    assert run("import matchmaking.base.settings as s\ns.EXPERIMENT = 'changed'")[0] == 0
    code, said = run("import matchmaking.base.settings as s\nprint('found', s.EXPERIMENT)")
    assert code == 0 and "found LegalAid_Connect_Matchmaking" in said


def test_the_numbers_are_those_of_a_step_started_anew(sample_csv: Path, incumbent: Path, tmp_path: Path) -> None:
    arguments = {"data": str(sample_csv), "production": str(incumbent)}
    with warm.Nursery("evaluate") as nursery:
        forked = run_pipeline("evaluate", arguments, tmp_path / "forked", nursery=nursery)
    anew = run_pipeline("evaluate", arguments, tmp_path / "anew")
    assert forked.exit_code == anew.exit_code == 0
    assert forked.summary["metrics"] == anew.summary["metrics"]
    # of which importing is no part any more: of the seven seconds that TensorFlow takes, say
    (measured,) = (step for step in forked.summary["steps"] if step["step"] == "evaluate")
    (started,) = (step for step in anew.summary["steps"] if step["step"] == "evaluate")
    assert measured["import_seconds"] < started["import_seconds"] / 2


def warm_processes(owner: int, pipeline: str) -> list[psutil.Process]:
    """A nursery's processes, once all that a pipeline wants have been forked: the root, and one of each kind."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [each for each in psutil.Process(owner).children(recursive=True) if MODULE in each.cmdline()]
        if len(found) == 1 + len(warm.WANTED[pipeline]):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{len(found)} processes after a minute")


def test_nothing_is_left_when_it_is_closed() -> None:
    # those that are still importing included
    with warm.Nursery("monitor"):
        found = warm_processes(os.getpid(), "monitor")
    _gone, alive = psutil.wait_procs(found, timeout=5)
    assert not alive


def test_nothing_is_left_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", "import time; from mlops.local import warm; n = warm.Nursery('retrain'); time.sleep(60)"]
    )
    try:
        found = warm_processes(owner.pid, "retrain")
    finally:
        owner.kill()
        owner.wait()
    # each sees it when it has imported all
    _, alive = psutil.wait_procs(found, timeout=60)
    assert not alive


def test_a_pipeline_that_comes_later_has_its_kinds_forked_as_well(run: Run, nursery: warm.Nursery) -> None:
    assert run("pass")[0] == 0
    nursery.prepare("monitor")
    code, said = run("import sys\nprint([name in sys.modules for name in ('evidently', 'tensorflow')])", "drift")
    assert code == 0 and "[True, False]" in said


def test_a_step_is_started_anew_where_there_is_no_warm_process(
    sample_csv: Path, incumbent: Path, tmp_path: Path
) -> None:
    with warm.Nursery("evaluate") as nursery:
        for each in warm_processes(os.getpid(), "evaluate"):
            each.kill()
            each.wait()
        outcome = run_pipeline(
            "evaluate", {"data": str(sample_csv), "production": str(incumbent)}, tmp_path, nursery=nursery
        )
    assert outcome.exit_code == 0


def test_every_module_that_is_imported_ahead_is_there() -> None:
    """A name that was moved would be passed over in silence, and only cost time."""
    names = sorted({name for kind in warm.IMPORTS.values() for name in kind})
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n) is None])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_module_is_named_by_two_kinds() -> None:
    names = [name for kind in warm.IMPORTS.values() for name in kind]
    assert len(names) == len(set(names))
    assert set(warm.FROM) | {"root"} == set(warm.IMPORTS)
