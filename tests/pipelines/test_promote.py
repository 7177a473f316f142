"""Promotion as its users meet it: the command line and the KFP pipeline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from matchmaking import tracking
from matchmaking.model import production
from matchmaking.release import audit, check, complete, promote, registry
from matchmaking.release.package import DECISION, fetch_package
from tests.hostile import ESCAPES, HANDLER, MARKDOWN, SCRIPT
from tests.promotion_fixtures import change_evidence, contents, package, variant

Mlops = Callable[..., "subprocess.CompletedProcess[str]"]

# how a text that would move the terminal begins there
SEEN = r"\x1b]0;OWNED\x07"
NAMES = ("v20260101T000000Z", "v20260102T000000Z")


@pytest.fixture(scope="module")
def registered(incumbent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with two registered packages; the second is the challenger."""
    work = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{work / 'mlflow.db'}")
        tracking.client.cache_clear()
        for name in NAMES:
            uri = package(variant(incumbent, work / f"bundle {name}", name), incumbent, work / "candidates", name)
            (work / f"copy {name}").mkdir()
            run_id, _ = tracking.start_run("retrain", name.removeprefix("v"), name, {})
            registry.register(fetch_package(uri, work / f"copy {name}"), run_id)
        tracking.client.cache_clear()
    return work


@pytest.fixture
def work(registered: Path, tmp_path: Path) -> Path:
    """A copy of the records; the packages stay where they are."""
    (tmp_path / "work").mkdir()
    shutil.copyfile(registered / "mlflow.db", tmp_path / "work" / "mlflow.db")
    return tmp_path / "work"


@pytest.fixture
def records(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{work / 'mlflow.db'}")
    tracking.client.cache_clear()
    yield tracking.client()
    tracking.client.cache_clear()


def test_the_command_line_promotes_tells_and_takes_back(
    mlops: Mlops, served: Path, work: Path, registered: Path
) -> None:
    before = contents(served)
    where = ("--production", served)
    options = (*where, "--work-dir", work)
    listed = mlops("candidates", "--work-dir", work).stdout.splitlines()
    assert [line.split()[:2] for line in listed[-2:]] == [["2", NAMES[1]], ["1", NAMES[0]]]
    assert listed[-2].rstrip().endswith("challenger (waits)")
    asked = mlops("promote", *options)
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    assert contents(served) == before

    done = mlops("promote", *options, "--yes")
    assert done.returncode == 0, done.stderr
    assert contents(served) == contents(registered / "candidates" / NAMES[1])
    for word in ("from: a model from elsewhere", f"to: {NAMES[1]}", "version 2", "average_precision 0.8000 -> 0.9000"):
        assert word in done.stdout

    again = mlops("promote", "2", *options, "--yes")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout

    stale = mlops("promote", "1", *options, "--yes")
    assert stale.returncode == 3
    assert "compared with" in stale.stderr
    assert len(stale.stderr.splitlines()) == 1

    assert "champion (serves)" in mlops("candidates", "--work-dir", work).stdout
    shown = mlops("history", *where)
    assert f"now: {NAMES[1]}" in shown.stdout
    assert "FOREIGN" not in shown.stdout

    back = mlops("rollback", *options, "--yes", "--reason", "it was slow")
    assert back.returncode == 0, back.stderr
    assert contents(served) == before
    found = json.loads(mlops("history", *where, "--json").stdout)
    assert [entry["action"] for entry in found["entries"]] == ["promote", "rollback"]
    assert found["entries"][1]["why"] == "it was slow"


def test_force_needs_a_reason_and_records_it(
    mlops: Mlops, served: Path, work: Path, registered: Path, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    shutil.copytree(registered / "candidates" / NAMES[0], held)
    change_evidence(str(held), DECISION, verdict="hold", reasons=["recall may be worse"])
    options = ("promote", held, "--production", served, "--work-dir", work, "--yes")
    plain = mlops(*options)
    assert plain.returncode == 3
    assert "recall may be worse" in plain.stderr
    assert mlops(*options, "--force").returncode == 2
    forced = mlops(*options, "--force", "--reason", "an emergency")
    assert forced.returncode == 0, forced.stderr
    assert "FORCED" in forced.stdout
    shown = mlops("history", "--production", served).stdout
    assert "an emergency" in shown
    assert "FORCED" in shown


def test_names_that_a_terminal_cannot_show_are_no_failure(mlops: Mlops, served: Path, registered: Path) -> None:
    """A latin-1 terminal, as in many a container."""
    change = check.prepare_promotion(
        str(registered / "candidates" / NAMES[0]), str(served), reason="東京 asked", say=lambda text: None
    )
    promote.apply(change, who="Łukasz@host", say=lambda text: None)
    shown = mlops("history", "--production", served, PYTHONIOENCODING="latin-1")
    assert shown.returncode == 0, shown.stderr
    assert "promote by \\u0141ukasz@host" in shown.stdout
    assert "\\u6771\\u4eac asked" in shown.stdout


def test_what_others_wrote_moves_no_terminal(
    mlops: Mlops, served: Path, work: Path, incumbent: Path, tmp_path: Path
) -> None:
    """Reasons and warnings of a package, who and why of the audit trail, a restart command's last words."""
    hostile = f"'{ESCAPES}' {MARKDOWN}"
    uri = package(variant(incumbent, tmp_path / "bundle", "x"), served, tmp_path / "candidates", NAMES[0])
    change_evidence(uri, DECISION, reasons=[hostile], warnings=[hostile])
    options = ("--production", served, "--work-dir", work, "--yes")
    done = mlops("promote", f"{uri}", *options)
    assert done.returncode == 0, done.stderr
    back = check.prepare_rollback(str(served), reason=hostile, say=lambda line: None)
    promote.apply(back, who=f"eve {ESCAPES}", say=lambda line: None)
    told = mlops("history", "--production", served)
    said = tmp_path / "restart"
    said.write_text(f"#!/bin/sh\nprintf '%s' \"{ESCAPES}\"\nexit 1\n")
    said.chmod(0o755)
    failed = mlops("promote", f"{uri}", *options, MLOPS_RESTART_COMMAND=str(said))
    assert failed.returncode == 1
    for each, begins in ((done, "why: '"), (told, "why     '"), (told, "by eve "), (failed, "exit code 1: ")):
        printed = each.stdout + each.stderr
        assert all(char.isprintable() or char == "\n" for char in printed)
        assert begins + SEEN in " ".join(printed.split(" ")) or begins + SEEN in " ".join(printed.split())


def test_the_steps_of_a_promotion_show_texts_as_they_are(
    served: Path, work: Path, records: Any, incumbent: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The page of `check`, which KFP's UI draws, and what both steps print, which its log has."""
    hostile = f"'{ESCAPES}' {MARKDOWN} {SCRIPT} {HANDLER}"
    uri = package(variant(incumbent, tmp_path / "bundle", "x"), served, tmp_path / "candidates", NAMES[0])
    change_evidence(uri, DECISION, reasons=[hostile], warnings=[hostile])
    run_pipeline(tmp_path, production=str(served), version=uri, reason=f"since {hostile}")
    (page,) = tmp_path.rglob("check/change")
    text = page.read_text()
    assert "OWNED" in text and all(char.isprintable() or char == "\n" for char in text)
    drawn = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert set(re.findall(r"<(\w+)", drawn)) == {"ul", "li"}
    # kfp's own lines are coloured; a step's are printed behind the mark of its output
    run_id = audit.history(str(served)).entries[-1].who.removeprefix(complete.BY_RUN)
    capfd.readouterr()
    promote.promote_in_run(
        uri,
        str(served),
        run_id=run_id,
        expected_before=production.hashes(served),
        force=False,
        reason=hostile,
        entry_path=tmp_path / "entry.json",
    )
    back = check.prepare_rollback(str(served))
    promote.apply(back)
    promote.promote_in_run(
        uri,
        str(served),
        run_id=run_id,
        expected_before=production.hashes(served),
        force=False,
        reason=hostile,
        entry_path=tmp_path / "entry.json",
    )
    printed = capfd.readouterr().out
    assert f"why: '{SEEN}" in printed
    assert all(char.isprintable() or char == "\n" for char in printed)


def test_an_unusable_tracking_uri_is_told_before_anything(mlops: Mlops, served: Path, work: Path) -> None:
    before = contents(served)
    where = ("--production", served, "--work-dir", work, "--yes")
    for command in (("promote", "1"), ("rollback",)):
        done = mlops(*command, *where, MLFLOW_TRACKING_URI="postgresql://user:secret-pw@host/db")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "MLFLOW_TRACKING_URI=postgresql://***@host/db can't be used" in line
    assert contents(served) == before
    assert not (served / ".mlops").exists()


def test_asks_a_person_at_a_terminal(mlops: Mlops, served: Path, work: Path) -> None:
    """`no` leaves everything; a failed restart offers the way back."""
    import pty
    import sys

    def dialogue(answers: dict[str, str], **env: str) -> tuple[int, str]:
        script = str(Path(sys.executable).with_name("mlops"))
        mine, theirs = pty.openpty()
        command = [script, "promote", "--production", str(served), "--work-dir", str(work)]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **env})
        os.close(theirs)
        seen, waiting = "", dict(answers)
        while True:
            try:
                text = os.read(mine, 4096).decode()
            except OSError:
                break
            if not text:
                break
            seen += text
            for question in [q for q in waiting if q in seen]:
                os.write(mine, f"{waiting.pop(question)}\n".encode())
        os.close(mine)
        return process.wait(60), seen

    before = contents(served)
    code, _ = dialogue({"Go on?": "n"})
    assert code == 1
    assert not (served / ".mlops").exists()
    code, seen = dialogue({"Go on?": "y", "Roll back?": "y"}, MLOPS_RESTART_COMMAND="sh -c 'echo no such pod; exit 1'")
    assert code == 1
    assert "no such pod" in seen
    assert contents(served) == before
    actions = [entry.action for entry in audit.history(str(served)).entries]
    assert actions[0] == "promote"
    assert "rollback" in actions


def test_of_two_commands_at_once_one_wins(
    mlops: Mlops, served: Path, work: Path, registered: Path, tmp_path: Path
) -> None:
    """The first is still restarting the service, so still at it, when the second comes."""
    import sys

    go, begun = tmp_path / "go", tmp_path / "begun"
    waiting = f"sh -c 'touch {begun}; while [ ! -e {go} ]; do sleep 0.05; done'"
    options = ["--production", str(served), "--work-dir", str(work), "--yes"]
    first = subprocess.Popen(
        [str(Path(sys.executable).with_name("mlops")), "promote", "1", *options],
        env={**os.environ, "MLOPS_RESTART_COMMAND": waiting},
        stdout=subprocess.DEVNULL,
    )
    for _ in range(600):
        if begun.exists():
            break
        time.sleep(0.1)
    second = mlops("promote", "2", *options)
    go.touch()
    assert first.wait(60) == 0
    assert second.returncode == 3
    assert "under way" in second.stderr
    assert contents(served) == contents(registered / "candidates" / NAMES[0])


def run_pipeline(folder: Path, **arguments: Any) -> None:
    from kfp import local

    from pipelines.promote import promote

    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "steps"),
        workspace_root=str(folder / "workspace"),
    )
    (folder / "workspace").mkdir(exist_ok=True)
    promote(**arguments)


def test_the_pipeline_promotes(served: Path, registered: Path, records: Any, tmp_path: Path) -> None:
    reason = 'it is "better", they say'
    run_pipeline(tmp_path, production=str(served), reason=reason, timestamp="20260301T000000Z")
    assert contents(served) == contents(registered / "candidates" / NAMES[1])
    (entry,) = audit.history(str(served)).entries
    (run,) = records.search_runs(
        [records.get_experiment_by_name("LegalAid_Connect_Matchmaking").experiment_id],
        "attributes.run_name = 'promote_20260301T000000Z'",
    )
    assert run.info.status == "FINISHED"
    assert entry.who == f"pipeline run {run.info.run_id}"
    assert run.data.tags["promoted"] == NAMES[1]
    assert run.data.params.items() >= {"version": "", "reason": reason}.items()
    assert records.get_model_version_by_alias("lawyer-match", "champion").version == 2


def test_the_pipeline_refuses_as_the_command_does(served: Path, registered: Path, records: Any, tmp_path: Path) -> None:
    with (served / production.MODEL).open("ab") as file:
        file.write(b" ")
    before = contents(served)
    with pytest.raises(RuntimeError, match="check"):
        run_pipeline(tmp_path, production=str(served), version="1", timestamp="20260302T000000Z")
    assert contents(served) == before
    (run,) = records.search_runs(
        [records.get_experiment_by_name("LegalAid_Connect_Matchmaking").experiment_id],
        "attributes.run_name = 'promote_20260302T000000Z'",
    )
    assert run.info.status == "FAILED"
    assert "compared with" in run.data.tags["failure_reason"]


def test_promote_is_compiled(tmp_path: Path) -> None:
    from pipelines.compile import compile_all

    paths = {path.stem: path.read_text() for path in compile_all(tmp_path)}
    assert "exec-promote" in paths["promote"]
    assert "exec-check" in paths["promote"]
    assert "compare-Output'] == 'automatic'" in " ".join(paths["retrain"].split())
    assert "pip install" not in paths["promote"] + paths["retrain"]
