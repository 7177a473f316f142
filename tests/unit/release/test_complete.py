"""The restart of the service that reads production."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchmaking.release import audit, complete
from tests.promotion_fixtures import contents, promote, rollback


def test_the_service_is_restarted_without_a_shell(
    served: Path, packages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a shell the semicolon is a file's name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_RESTART_COMMAND", f"touch '{tmp_path}/re started' ;")
    promote(packages[0], served)
    assert (tmp_path / "re started").exists()


@pytest.mark.parametrize(
    ("command", "said"), [("sh -c 'echo no such pod; exit 4'", "exit code 4.*no such pod"), ("/none", "can't be run")]
)
def test_a_failed_restart_is_reported_and_the_promotion_stands(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    before = contents(served)
    monkeypatch.setenv("MLOPS_RESTART_COMMAND", command)
    with pytest.raises(complete.RestartError, match=said):
        promote(packages[0], served)
    assert contents(served) == contents(Path(packages[0]))
    assert not (served / audit.JOURNAL).exists()
    found = audit.history(str(served))
    assert [entry.action for entry in found.entries] == ["promote", "restart failed"]
    monkeypatch.delenv("MLOPS_RESTART_COMMAND")
    rollback(served)
    assert contents(served) == before


def test_a_restart_that_hangs_is_ended_with_its_children(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_RESTART_COMMAND", "sh -c 'sleep 60; true'")
    monkeypatch.setenv("MLOPS_RESTART_TIMEOUT", "0.3")
    with pytest.raises(complete.RestartError, match=r"didn't end in 0\.3 s"):
        promote(packages[0], served)
