"""`matchmaking.data.versions` on real git and DVC repositories, with a folder as the remote."""

from __future__ import annotations

import gzip
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.files import file_md5
from matchmaking.data import versions
from matchmaking.data.pointer import DATA, POINTER
from matchmaking.data.read import read_pairs
from matchmaking.data.remote import MissingError, RemoteError, _within
from matchmaking.data.sample import generate, generate_file
from tests.dvc_fixtures import commit_all, dvc, git, make_clone, pairs_file


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone as a user has it, with a small sample in place of ours; the current folder."""
    root = make_clone(tmp_path / "clone")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def remote(clone: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "remote"
    folder.mkdir()
    (clone / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {folder}\n"
    )
    return folder


def forget_cache(clone: Path) -> None:
    shutil.rmtree(clone / ".dvc" / "cache", ignore_errors=True)


def state(clone: Path) -> tuple[str, str, str, list[str]]:
    """Everything that a command that fails must leave as it was."""
    return (
        file_md5(clone / DATA) if (clone / DATA).exists() else "",
        (clone / POINTER).read_text(),
        git(clone, "rev-parse", "HEAD") + git(clone, "status", "--porcelain"),
        sorted(path.name for path in (clone / "data").iterdir()),
    )


def test_the_sample_in_git_is_the_one_made_here() -> None:
    # the real pointer of this repository: what `make run` in a fresh clone relies on
    root = Path(versions.__file__).parents[2]
    pointer = yaml.safe_load((root / POINTER).read_text())
    assert pointer["meta"]["sample"] == {"rows": 12_000, "seed": 0}
    config = (root / ".dvc" / "config").read_text()
    assert not any(word in config for word in ("key", "secret", "password", "token"))


def test_fresh_clone_makes_the_sample(clone: Path) -> None:
    pointer = versions.checkout()
    assert file_md5(clone / DATA) == pointer.md5
    # as DVC sees it, too
    assert "up to date" in dvc("status")
    # again is nothing
    before = (clone / DATA).stat().st_mtime_ns
    versions.checkout()
    assert (clone / DATA).stat().st_mtime_ns == before


def test_sample_that_comes_out_otherwise(clone: Path) -> None:
    text = (clone / POINTER).read_text()
    (clone / POINTER).write_text(text.replace(yaml.safe_load(text)["outs"][0]["md5"], "0" * 32))
    with pytest.raises(MissingError, match="the sample data made here has md5"):
        versions.checkout()
    assert not (clone / DATA).exists()


def test_add_list_go_back_and_forth(clone: Path, tmp_path: Path) -> None:
    versions.checkout()
    first = file_md5(clone / DATA)
    (clone / "staged.txt").write_text("not yours")
    git(clone, "add", "staged.txt")
    second, sent = versions.add(pairs_file(tmp_path, 1), "November")
    assert (sent, second.rows, file_md5(clone / DATA)) == (False, 400, second.md5)
    assert git(clone, "show", "--format=%s", "--name-only", "HEAD").split() == ["November", POINTER.as_posix()]
    git(clone, "tag", "v2")
    found, trouble = versions.versions()
    assert [(v.md5, v.tags, v.here, v.cached, v.remote, v.rows) for v in found] == [
        (second.md5, ("v2",), True, True, None, 400),
        (first, (), False, True, None, 300),
    ]
    assert trouble == ""
    assert versions.checkout("HEAD~1").md5 == first == file_md5(clone / DATA)
    assert versions.checkout("v2").md5 == second.md5 == file_md5(clone / DATA)
    assert git(clone, "status", "--porcelain") == "A  staged.txt"


def test_gzip_is_stored_plain(clone: Path, tmp_path: Path) -> None:
    plain = pairs_file(tmp_path, 1)
    packed = tmp_path / "pairs.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert versions.add(packed)[0].md5 == file_md5(plain)


@pytest.mark.parametrize("form", ["pairs.parquet", "parts/*", "parts"])
def test_all_but_one_csv_file_becomes_one(
    clone: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which is read as the same pairs, to the last bit."""
    pairs = generate(600, seed=1).assign(note="x")
    pairs["rating"] = 1 + np.random.default_rng(0).random(600) * 4
    (tmp_path / "parts").mkdir()
    pairs.to_parquet(tmp_path / "pairs.parquet", index=False)
    for number, start in enumerate((0, 400)):
        pairs.iloc[start : start + 400].to_csv(tmp_path / "parts" / f"{number}.csv", index=False)
    pointer, _ = versions.add(str(tmp_path / form))
    assert pointer.rows == 600
    whole = tmp_path / form.removesuffix("/*")
    pd.testing.assert_frame_equal(read_pairs(clone / DATA)[0], read_pairs(whole)[0], check_exact=True)
    # where a machine is slow, it says how far it is as well
    said = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("read ")]
    assert said == ["left out, as nobody knows them here: note"]
    with pytest.raises(InputError, match="is the current version already"):
        versions.add(str(tmp_path / form))


@pytest.mark.parametrize("form", ["pairs.parquet", "parts"])
def test_a_version_that_nobody_could_read_is_not_made(clone: Path, tmp_path: Path, form: str) -> None:
    """A city that is a missing value where it is written without what told it from one."""
    pairs = generate(200, seed=1)
    pairs.loc[7, "city"] = "NA "
    pairs.to_parquet(tmp_path / "pairs.parquet", index=False)
    (tmp_path / "parts").mkdir()
    for number in range(2):
        pairs.iloc[number * 100 : (number + 1) * 100].to_csv(tmp_path / "parts" / f"{number}.csv", index=False)
    # by itself it can be read
    assert read_pairs(tmp_path / form)[0]["city"][7] == "NA"
    before = state(clone)
    with pytest.raises(InputError, match=rf"{form} can't be stored .* column 'city': missing values in line 9$"):
        versions.add(str(tmp_path / form))
    assert state(clone) == before


def test_no_commit(clone: Path, tmp_path: Path) -> None:
    head = git(clone, "rev-parse", "HEAD")
    versions.add(pairs_file(tmp_path, 1), commit=False)
    assert git(clone, "rev-parse", "HEAD") == head
    # its pointer isn't in git: leaving it would lose it
    with pytest.raises(InputError, match="not committed"):
        versions.checkout("HEAD")
    versions.add(pairs_file(tmp_path, 1))
    assert git(clone, "status", "--porcelain") == ""


def test_unsaved_changes_are_kept(clone: Path, tmp_path: Path) -> None:
    versions.checkout()
    with (clone / DATA).open("a") as file:
        file.write("\n")
    before = state(clone)
    for call in (versions.checkout, lambda: versions.checkout("HEAD")):
        with pytest.raises(InputError, match="in no version"):
            call()
    with pytest.raises(InputError, match="in no version"):
        versions.add(pairs_file(tmp_path, 1))
    assert state(clone) == before


def test_bad_files_and_revisions(clone: Path, tmp_path: Path) -> None:
    versions.checkout()
    git(clone, "tag", "before", git(clone, "commit-tree", "-m", "none", git(clone, "write-tree", "--prefix=data/")))
    before = state(clone)
    broken = tmp_path / "broken.csv"
    broken.write_text("case_type,location\nTax,Delhi\n")
    with pytest.raises(InputError, match=r"lacks|missing"):
        versions.add(broken)
    with pytest.raises(InputError, match="current version already"):
        versions.add(clone / DATA)
    for rev, message in (("nosuch", "doesn't exist"), ("--all", "doesn't exist"), ("before", "has no data")):
        with pytest.raises(InputError, match=message):
            versions.checkout(rev)
        with pytest.raises(InputError, match=message):
            versions.fetch(rev, tmp_path / "work")
    assert state(clone) == before
    assert not (tmp_path / "work").exists()


def test_a_pointer_with_a_merge_conflict(clone: Path) -> None:
    (clone / POINTER).write_text("<<<<<<< HEAD\nouts:\n=======\n>>>>>>> other\n")
    with pytest.raises(InputError, match="isn't what DVC writes"):
        versions.checkout()


def test_outside_of_a_clone(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(clone / ".git")
    versions.checkout()  # the sample needs no git
    with pytest.raises(InputError, match="not a git repository"):
        versions.versions()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="need a clone"):
        versions.fetch("HEAD", tmp_path)


def test_remote_brings_what_the_cache_lost(clone: Path, remote: Path, tmp_path: Path) -> None:
    git(clone, "tag", "v1")
    pointer, sent = versions.add(pairs_file(tmp_path, 1))
    assert sent
    versions.checkout("v1")
    forget_cache(clone)
    assert [v.remote for v in versions.versions()[0]] == [True, False]
    fetched = versions.fetch("HEAD", tmp_path / "work")
    assert (file_md5(fetched.path), fetched.md5, fetched.commit) == (
        pointer.md5,
        pointer.md5,
        git(clone, "rev-parse", "HEAD"),
    )
    assert versions.checkout("HEAD").md5 == file_md5(clone / DATA)
    with pytest.raises(InputError, match="folder of this machine"):
        versions.remote_uri("HEAD")


def test_older_than_the_remote(clone: Path, tmp_path: Path) -> None:
    # at the first version's revision .dvc/config names no remote: today's is asked
    first, _ = versions.add(pairs_file(tmp_path, 1))
    git(clone, "tag", "v1")
    folder = tmp_path / "late"
    dvc("remote", "add", "-q", "-d", "late", folder)
    commit_all(clone, "remote")
    dvc("push", "-q")
    versions.add(pairs_file(tmp_path, 2))
    forget_cache(clone)
    assert file_md5(versions.fetch("v1", tmp_path / "work").path) == first.md5


def test_damaged_copies(clone: Path, remote: Path, tmp_path: Path) -> None:
    git(clone, "tag", "v1")
    pointer, _ = versions.add(pairs_file(tmp_path, 1))
    versions.checkout("v1")
    before = state(clone)
    for place in (clone / ".dvc" / "cache", remote):
        copy = place / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]
        copy.chmod(0o644)
        with copy.open("a") as file:
            file.write("damage")
        with pytest.raises(MlopsError, match=r"damaged|isn't .* any more") as caught:
            versions.checkout("HEAD")
        assert caught.value.exit_code == 2
        assert state(clone) == before
        forget_cache(clone)


def test_nowhere(clone: Path, tmp_path: Path) -> None:
    versions.add(pairs_file(tmp_path, 1))
    (clone / DATA).unlink()
    forget_cache(clone)
    with pytest.raises(MissingError, match="no DVC remote is set up"):
        versions.checkout()


def test_remote_that_refuses(clone: Path, remote: Path, tmp_path: Path) -> None:
    remote.rmdir()
    remote.write_text("a file, where the folder was")
    versions.checkout()
    before = state(clone)
    with pytest.raises(RemoteError, match="the DVC remote can't be used"):
        versions.add(pairs_file(tmp_path, 1))
    assert state(clone) == before


def test_remote_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    # the bound itself; tests/services has a server that is really gone
    with pytest.raises(RemoteError, match="didn't answer within"):
        _within(0.05, threading.Event().wait)


def test_commit_that_git_refuses(clone: Path, tmp_path: Path) -> None:
    versions.checkout()
    before = state(clone)
    hook = clone / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not on a Friday >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(MlopsError, match="not on a Friday"):
        versions.add(pairs_file(tmp_path, 1))
    assert state(clone) == before


def test_git_without_a_name(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(clone, "config", "--unset", "user.email")
    git(clone, "config", "user.useConfigOnly", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("GIT_AUTHOR_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="who you are"):
        versions.add(pairs_file(tmp_path, 1))


def test_twelve_thousand_sample_rows_are_gits(tmp_path: Path) -> None:
    root = Path(versions.__file__).parents[2]
    generate_file(tmp_path / "pairs.csv", 12_000, 0)
    assert file_md5(tmp_path / "pairs.csv") == yaml.safe_load((root / POINTER).read_text())["outs"][0]["md5"]


def test_a_commit_on_no_branch_is_said(clone: Path, tmp_path: Path, mlops: Callable[..., Any]) -> None:
    added = mlops("data", "add", pairs_file(tmp_path, 1))
    assert added.returncode == 0 and "git push" in added.stdout and "no branch" not in added.stderr
    git(clone, "checkout", "--quiet", "--detach")
    added = mlops("data", "add", pairs_file(tmp_path, 2))
    assert added.returncode == 0 and "git push" not in added.stdout
    assert "on no branch (HEAD is detached): `git switch -c NAME` keeps it" in " ".join(added.stderr.split())
