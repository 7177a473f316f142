"""What every step does around its work: costs that travel with artifacts, failures told in one line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from matchmaking.errors import InputError, RefusedError
from matchmaking.steps import ERROR_MARK, collect, step


def artifact() -> SimpleNamespace:
    return SimpleNamespace(metadata={})


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


def test_imports_are_timed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "slow_to_import.py").write_text("import time\ntime.sleep(0.3)\n")
    monkeypatch.syspath_prepend(str(folder))
    before, after = artifact(), artifact()
    with step("before", "", {"Text": before}):
        pass
    with step("after", "", {"Text": after}):
        import slow_to_import  # type: ignore[import-not-found]  # noqa: F401
    (a,), (b,) = collect([before]), collect([after])
    own = (b["import_seconds"] - a["import_seconds"]) - (b["wall_seconds"] - a["wall_seconds"])
    assert b["import_seconds"] - a["import_seconds"] > 0.29
    assert abs(own) < 0.1


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
