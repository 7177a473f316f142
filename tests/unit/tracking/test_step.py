"""What every step does around its work: costs that travel with artifacts, failures told in one line."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from matchmaking import tracking
from matchmaking.base.errors import InputError, RefusedError
from matchmaking.tracking.step import ERROR_MARK, collect, step

ROOT = Path(__file__).parents[3]


def artifact() -> SimpleNamespace:
    return SimpleNamespace(metadata={})


def test_every_step_begins_with_a_cheap_import() -> None:
    code = (
        "import sys; before = set(sys.modules); import matchmaking.tracking.step; print(*(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = found.stdout.split()
    # what a step needs of the record it imports as it goes; the room offers it all the same
    ours = {"matchmaking", "matchmaking.tracking", "matchmaking.tracking.step"}
    assert {name for name in loaded if name.split(".")[0] in ("matchmaking", "mlflow", "pandas")} == ours
    assert tracking.begun is tracking.runs.begun and tracking.client is tracking.connection.client
    with pytest.raises(AttributeError, match="no attribute 'began'"):
        tracking.began  # noqa: B018


def test_costs_travel_with_the_artifacts() -> None:
    first, second, other, last = (artifact() for _ in range(4))
    with step("one", "", {"Text": first}):
        pass
    with step("two", "", {"Text": second}, [first]):
        pass
    with step("three", "", {"Text": other}, [first]):
        pass
    with step("four", "", {"Text": last}, [second, None, other]):
        pass
    assert last.metadata["display_name"] == "Text"
    costs = collect([last])
    assert [cost["step"] for cost in costs] == ["one", "two", "three", "four"]
    assert all(cost["wall_seconds"] >= cost["import_seconds"] >= 0 and cost["peak_mb"] > 1 for cost in costs)


def test_imports_are_timed(tmp_path: Path) -> None:
    """In a process of its own, as each step is: how old it is, and how much of that went into imports."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.3)\n")
    code = """
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from matchmaking.tracking.step import collect, step
before, after = SimpleNamespace(metadata={}), SimpleNamespace(metadata={})
with step("before", "", {"Text": before}):
    pass
with step("after", "", {"Text": after}):
    import slow_to_import
print(json.dumps([*collect([before]), *collect([after])]))
"""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    a, b = json.loads(done.stdout.splitlines()[-1])
    own = (b["import_seconds"] - a["import_seconds"]) - (b["wall_seconds"] - a["wall_seconds"])
    assert b["import_seconds"] - a["import_seconds"] > 0.29
    assert abs(own) < 0.1


def test_garbage_is_collected_but_while_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, more in (("outer_module", "import inner_module"), ("inner_module", "raise ImportError")):
        (tmp_path / f"{name}.py").write_text(f"import gc\ncollected = gc.isenabled()\n{more}\n")
    (tmp_path / "plain_module.py").write_text("import gc\ncollected = gc.isenabled()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gc.isenabled()
    with step("one", ""):
        import plain_module  # type: ignore[import-not-found]

        assert gc.isenabled() and not plain_module.collected
        # one that fails, too, within one that does
        with pytest.raises(ImportError):
            import outer_module  # type: ignore[import-not-found]  # noqa: F401
        assert gc.isenabled()
        gc.disable()
        try:
            import wave  # noqa: F401

            assert not gc.isenabled()
        finally:
            gc.enable()


@pytest.mark.parametrize(("error", "code"), [(InputError("bad\ncolumn"), 2), (RefusedError("no"), 3)])
def test_a_told_failure_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    out = artifact()
    with pytest.raises(SystemExit) as ended, step("validate", "", {"Text": out}):
        raise error
    assert ended.value.code == code
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith(ERROR_MARK)]
    told = json.loads(line.removeprefix(ERROR_MARK))
    assert told == {"step": "validate", "exit_code": code, "message": " ".join(str(error).split())}
    assert out.metadata == {}


def test_an_unforeseen_failure_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), step("train", ""):
        _ = 1 / 0
    assert '"exit_code": 1' in capsys.readouterr().out
