"""The script that sets SeaweedFS up, run on a real one: what each identity may then do.

The same policies are MinIO's, on which its script is tried with a stand-in for its client (tests/manifests).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.conftest import BUCKETS, RIGHTS, ROOT
from tests.services.conftest import S3, free_ports, keys, program, running, s3_client, wait_for_s3

STORE = ROOT / "manifests" / "object-store"
ROLES = [role for role in RIGHTS if role != "kfp"]  # which is an administrator there


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a SeaweedFS as upstream starts it, set up twice."""
    folder = tmp_path_factory.mktemp("weed")
    weed = program("weed")
    names = ("master", "volume", "filer", "s3")
    ports = free_ports(2 * len(names))
    http, grpc = (dict(zip(names, part, strict=True)) for part in (ports[:4], ports[4:]))
    (folder / "blobs").mkdir()
    command = [
        *(weed, "server", "-s3", "-iam", "-filer", f"-dir={folder / 'blobs'}", f"-s3.localSocket={folder / 's3.sock'}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=200"),
        *(f"-{name}.port={http[name]}" for name in names),
        *(f"-{name}.port.grpc={grpc[name]}" for name in names),
    ]
    there = {f"{name.upper()}": f"127.0.0.1:{http[name]}.{grpc[name]}" for name in ("master", "filer")}
    secrets = {f"{role.upper()}_{part}": _key(role, part) for role in ROLES for part in ("KEY", "SECRET")}
    env = {"PATH": f"{Path(weed).parent}:/usr/bin:/bin", "HOME": str(folder), **there, **secrets}
    script = (STORE / "seaweedfs" / "setup.sh").read_text()
    assert "/policies/" in script
    script = script.replace("/policies/", f"{STORE / 'policies'}/")
    with running(
        command, folder / "log", {key: value for key, value in os.environ.items() if key == "PATH"}
    ) as process:
        server = S3(f"http://127.0.0.1:{http['s3']}", keys("admin", "admin-secret"), {})
        # upstream's own work: the administrator and the first bucket
        first = (
            "s3.configure -user kubeflow-admin -access_key admin -secret_key admin-secret -actions Admin -apply\n"
            "s3.bucket.create -name mlpipeline\n"
        )
        _until(lambda: "mlpipeline" in _weed(weed, env, first + "s3.bucket.list\n"))
        wait_for_s3(process, server, folder / "log")
        for _ in range(2):
            done = subprocess.run(
                ["sh", "-c", script], env=env, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert "-secret" not in done.stdout
            assert done.stdout.count(": policy ") == len(ROLES) and done.stdout.endswith("The store is ready\n")
        yield server.endpoint


def _key(role: str, part: str) -> str:
    return f"mlops-{role}" if part == "KEY" else f"{role}-secret"


def _weed(weed: str, env: dict[str, str], commands: str) -> str:
    options = [f"-master={env['MASTER']}", f"-filer={env['FILER']}"]
    done = subprocess.run(
        [weed, "shell", *options], input=commands, env=env, capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


def _until(done: Any) -> None:
    for _ in range(20):
        if done():
            return
    raise RuntimeError("SeaweedFS doesn't start")


@pytest.mark.parametrize("role", ROLES)
def test_each_identity_has_its_buckets_and_deletes_no_version(store: str, role: str) -> None:
    from botocore.exceptions import ClientError

    admin = s3_client(store, keys("admin", "admin-secret"))
    client = s3_client(store, keys(_key(role, "KEY"), _key(role, "SECRET")))

    def may(call: Any, **what: Any) -> bool:
        try:
            return not call(**what).get("Errors")
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
            return False

    for bucket in BUCKETS:
        there = {"Bucket": bucket, "Key": "probe/there"}
        versions = [admin.put_object(**there, Body=body).get("VersionId") for body in (b"1", b"2")]
        assert all(versions) == (bucket in ("candidates", "production"))
        rights = RIGHTS[role].get(bucket, set())
        assert may(client.list_objects_v2, Bucket=bucket) == ("s3:ListBucket" in rights)
        assert may(client.get_object, **there) == ("s3:GetObject" in rights)
        assert may(client.put_object, Bucket=bucket, Key="probe/new", Body=b"3") == ("s3:PutObject" in rights)
        upload = may(client.create_multipart_upload, Bucket=bucket, Key="probe/parts")
        assert upload == ("s3:PutObject" in rights)
        assert may(client.delete_object, Bucket=bucket, Key="probe/new") == ("s3:DeleteObject" in rights)
        version = versions[0] or "null"
        assert not may(client.delete_object, **there, VersionId=version), f"{role} deletes versions in {bucket}"
        objects = {"Objects": [{"Key": "probe/there", "VersionId": version}]}
        assert not may(client.delete_objects, Bucket=bucket, Delete=objects), f"{role} deletes versions in {bucket}"
        assert admin.get_object(**there, **({"VersionId": versions[0]} if versions[0] else {}))["Body"].read()
    # who can: the store's administrator
    last = admin.put_object(Bucket="production", Key="probe/there", Body=b"4")["VersionId"]
    assert may(admin.delete_object, Bucket="production", Key="probe/there", VersionId=last)
