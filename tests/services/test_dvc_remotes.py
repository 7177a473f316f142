"""Versions of the data in remotes that are servers: real S3, and an emulator of Google Cloud Storage."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from matchmaking.base.errors import MlopsError
from matchmaking.base.files import file_md5
from matchmaking.data import remote, versions
from matchmaking.data.pointer import DATA
from matchmaking.data.remote import RemoteError
from tests.dvc_fixtures import git, make_clone, pairs_file

from .conftest import S3, free_ports, use_s3


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_clone(tmp_path / "clone")
    monkeypatch.chdir(root)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return root


def be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str, identity: dict[str, str]) -> None:
    """`use_s3`; aiobotocore wants the files of AWS settings to be files, not /dev/null."""
    use_s3(monkeypatch, endpoint, identity)
    (tmp_path / "empty").touch()
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))


def use_remote(clone: Path, url: str, **options: object) -> None:
    lines = [f"    {name} = {value}" for name, value in {"url": url, **options}.items()]
    text = "\n".join(["[core]", "    remote = store", "['remote \"store\"']", *lines])
    (clone / ".dvc" / "config.local").write_text(text + "\n")


def there_and_back(clone: Path, tmp_path: Path, scheme: str) -> str:
    git(clone, "tag", "v1")
    pointer, sent = versions.add(pairs_file(tmp_path, 1))
    assert sent
    versions.checkout("v1")
    shutil.rmtree(clone / ".dvc" / "cache")
    assert [v.remote for v in versions.versions()[0]] == [True, False]
    assert file_md5(versions.fetch("main", tmp_path / "work").path) == pointer.md5
    versions.checkout("main")
    assert file_md5(clone / DATA) == pointer.md5
    uri = versions.remote_uri("main")
    assert uri.startswith(scheme)
    assert uri.replace("/", "").endswith(pointer.md5)
    return uri


def test_s3(s3: S3, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matchmaking import storage

    be(monkeypatch, tmp_path, s3.endpoint, s3.admin)
    # where the endpoint is, is in the environment, as everywhere in this project: the steps have it, too
    use_remote(clone, "s3://datasets/dvc")
    uri = there_and_back(clone, tmp_path, "s3://datasets/dvc/")
    storage.download(uri, tmp_path / "by-a-step.csv")
    assert file_md5(tmp_path / "by-a-step.csv") == file_md5(clone / DATA)


def test_s3_damage_and_refusal(s3: S3, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, tmp_path, s3.endpoint, s3.pipeline)  # may read, not write
    use_remote(clone, "s3://datasets/dvc")
    before = git(clone, "rev-parse", "HEAD")
    with pytest.raises(RemoteError, match=r"(?i)denied|forbidden|permission|403"):
        versions.add(pairs_file(tmp_path, 1))
    assert (git(clone, "rev-parse", "HEAD"), (clone / DATA).exists()) == (before, False)

    be(monkeypatch, tmp_path, s3.endpoint, s3.admin)
    pointer, _ = versions.add(pairs_file(tmp_path, 1))
    s3.put("datasets", **{f"dvc/files/md5/{pointer.md5[:2]}/{pointer.md5[2:]}": b"something else"})
    shutil.rmtree(clone / ".dvc" / "cache")
    with pytest.raises(MlopsError, match="damaged"):
        versions.fetch("HEAD", tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_s3_that_is_down(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    identity = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b" * 16}
    be(monkeypatch, tmp_path, f"http://127.0.0.1:{port}", identity)
    use_remote(clone, "s3://datasets/dvc")
    versions.checkout()
    before = file_md5(clone / DATA), git(clone, "status", "--porcelain"), git(clone, "rev-parse", "HEAD")
    start = time.monotonic()
    with pytest.raises(RemoteError, match=r"connect|answer") as caught:
        versions.add(pairs_file(tmp_path, 1))
    assert time.monotonic() - start < remote.REMOTE_SECONDS + 5
    assert "\n" not in str(caught.value)
    assert (file_md5(clone / DATA), git(clone, "status", "--porcelain"), git(clone, "rev-parse", "HEAD")) == before
    # the list needs no remote
    found, trouble = versions.versions()
    assert [v.remote for v in found] == [None]
    assert "remote" in trouble


@pytest.mark.parametrize("gs", ["fake-gcs-server"], indirect=True)
def test_gs(gs: Any, clone: Path, tmp_path: Path) -> None:
    use_remote(clone, f"gs://{gs.name}/dvc")
    there_and_back(clone, tmp_path, f"gs://{gs.name}/dvc/")
