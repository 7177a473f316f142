"""Steps in containers: `kfp.local.DockerRunner` with the images of `make images`, each step shut in as in a pod.

A step has no capabilities, a read-only root file system and the caller's user. It sees the data and production
(read-only), the folder of candidates, its run's folder, and what records the run. It has a network only where
something it was given is not on this disk.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from matchmaking import storage
from matchmaking.base import settings
from matchmaking.base.errors import InputError, MlopsError
from matchmaking.tracking import notify

if TYPE_CHECKING:
    from docker import DockerClient
    from kfp.local import DockerRunner

READ = ("data", "predictions", "outcomes", "exposures", "pairs", "current", "production", "production_data")
WRITTEN = ("candidates",)
# a mount for each
MOST_LINKED = 100

# what a step is told of the environment here; everything else stays outside
_PASSED = re.compile(
    r"AWS_\w+|GOOGLE_\w+|MLFLOW_\w+|MLOPS_NOTIFY_\w+|MLOPS_POLICY|MLOPS_DATA_REVISION|STORAGE_EMULATOR_HOST|SSL_CERT_FILE"
    r"|REQUESTS_CA_BUNDLE|(?i:https?_proxy|no_proxy)"
)
# where the SDKs look for credentials if no variable says so; by the scheme that needs them
_CREDENTIALS = {
    "s3": {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"},
    "gs": {"GOOGLE_APPLICATION_CREDENTIALS": "~/.config/gcloud/application_default_credentials.json"},
}
# the names of the containers that this process has, or is about to have; whether it is to have no more
_running: set[str] = set()
_ended = threading.Event()
_LOOPBACK = re.compile(r"(?:^|//|@|\s)(?:localhost|127\.\d+\.\d+\.\d+|\[?::1\]?)(?:[:/\s]|$)", re.IGNORECASE)


def check_engine(images: Iterable[str]) -> None:
    """Makes sure that steps can run in these images.

    Raises:
        MlopsError: no engine answers, or an image isn't there.
    """
    from docker.errors import ImageNotFound

    with closing(_engine()) as client:
        missing = []
        for image in images:
            try:
                client.images.get(image)
            except ImageNotFound:
                missing.append(image)
    if missing:
        raise MlopsError(
            f"no image {', '.join(missing)}; run `make images` (MLOPS_REGISTRY and MLOPS_TAG name other ones)"
        )


def docker_runner(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], DockerRunner]:
    """How the steps of one pipeline run in containers; MLFLOW_TRACKING_URI must be set.

    Args:
        arguments: the pipeline's. A local folder of candidates is made where there is none.

    Returns:
        The arguments with absolute paths, and KFP's runner.

    Raises:
        MlopsError: no engine answers.
        InputError: the run would write to production, which is mounted read-only; see `seen_by`.
    """
    from kfp.local import DockerRunner, docker_task_handler

    _check_policy(arguments)
    absolute = dict(arguments)
    mounts: dict[Path, bool] = {}
    for name in (*READ, *WRITTEN):
        if (path := _local(arguments.get(name))) is not None:
            absolute[name] = str(path)
            if name in WRITTEN:
                path.mkdir(parents=True, exist_ok=True)
                mounts[path] = True
            else:
                mounts |= dict.fromkeys(seen_by(path), False)
    uris = [str(value) for name, value in absolute.items() if name in (*READ, *WRITTEN) and value]
    environment = _environment(uris)
    # SQLite writes a journal beside its file, and MLflow's artifacts lie there too
    tracking = environment["MLFLOW_TRACKING_URI"]
    if (records := _records(tracking)) is not None:
        records.mkdir(parents=True, exist_ok=True)
        mounts[records] = True
        if tracking.startswith("sqlite:///"):
            environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{records / Path(tracking).name}"
    mounts.update({Path(value): False for value in environment.values() if _is_file(value)})
    with closing(_engine()) as client:
        rootless = "name=rootless" in client.info().get("SecurityOptions", [])
    # kfp 2.17's own pulls images, takes a container that is gone too early for one that went well, and leaves it
    # running on Ctrl-C
    docker_task_handler.run_docker_container = _run_container
    return absolute, DockerRunner(
        **options(mounts, rootless=rootless),
        environment=environment,
        network_mode=_network([*uris, tracking] if records is None else uris, environment),
    )


def seen_by(path: Path) -> list[Path]:
    """What has to be mounted, each at its own place, so that a step can read a file, a folder or what a pattern is of.

    Args:
        path: absolute, without links in it; of one that isn't there the step tells.

    Returns:
        The file or folder, and what links in it lead to outside of it, where the link says that it is.

    Raises:
        InputError: a folder can't be listed, too many links lead out of it, or one leads elsewhere in a container.
    """
    if path.exists():
        base, names = path, storage.list_names(str(path)) if path.is_dir() else []
    elif found := storage.matching(str(path)):
        base, names = Path(found[0]).resolve(), [*found[1]]
    else:
        return []
    if not base.exists():
        return []
    mounted = [base]
    for name in names:
        _follow(base / name, mounted)
    if len(mounted) > MOST_LINKED:
        raise InputError(
            f"{base}: {len(mounted) - 1:,} links lead out of it, too many for a container; copy the files, give the "
            "folder that they are in, or use --runner subprocess"
        )
    return mounted


def _follow(path: Path, mounted: list[Path]) -> Path:
    """Follows the links on the way to a file as a container would, and adds what has to be mounted for that."""
    root = next((each for each in mounted if path.is_relative_to(each)), None)
    if root is None:
        # what it is in the end, whatever links are behind its name
        mounted.append(path)
        return path
    place = root
    for part in path.relative_to(root).parts:
        place /= part
        if place.is_symlink() and place not in mounted:
            target = Path(os.path.normpath(place.parent / place.readlink()))
            # from another folder than the one that it is in, a relative link leads elsewhere
            if target.resolve() != place.resolve():
                raise InputError(
                    f"{place} is a link that leads elsewhere in a container; copy the file, or use --runner subprocess"
                )
            place = _follow(target, mounted)
    return place


def options(mounts: Mapping[Path, bool], *, rootless: bool = False) -> dict[str, Any]:
    """How every container of ours is shut in, as arguments of `docker.containers.create`.

    Args:
        mounts: paths that it sees, at the same place; True for those it may write to.
        rootless: the engine runs as the caller, who is root in its containers.
    """
    from docker.types import Mount

    return {
        "user": "0:0" if rootless else f"{os.getuid()}:{os.getgid()}",
        "group_add": [] if rootless else [str(group) for group in os.getgroups()],
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mounts": [
            Mount(target=str(path), source=str(path), type="bind", read_only=not writable)
            for path, writable in mounts.items()
        ],
    }


def begin_containers() -> None:
    """Steps may have containers again, after `end_containers`."""
    _ended.clear()


def end_containers() -> None:
    """Takes away the containers of this process's steps, and lets none begin any more; for a signal's handler.

    By a client of its own: the one of the step that was interrupted may be in the middle of something.
    """
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    _ended.set()
    if names := sorted(_running):
        # where the engine doesn't answer there is nothing to be done
        with suppress(MlopsError, DockerException, RequestException), closing(_engine()) as client:
            for name in names:
                _take_away(client, name)


def _run_container(client: DockerClient, image: str, command: list[str], volumes: Any, **options: Any) -> int:
    """Runs one step, prints what it prints, and gives its exit code; takes the container away whatever happens."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    # known before the engine has answered, so that it can be taken away then
    name = f"mlops-step-{uuid4().hex}"
    _running.add(name)
    try:
        try:
            container = client.containers.create(image, command, name=name, volumes=volumes, **options)
            if _ended.is_set():
                return 1
            container.start()
            for chunk in container.logs(stream=True):
                print(chunk.decode(errors="replace"), end="")
            return int(container.wait()["StatusCode"])
        finally:
            _take_away(client, name)
            _running.discard(name)
    except (DockerException, RequestException) as error:
        if _ended.is_set():
            # it was taken away
            return 1
        raise RuntimeError(f"the Docker engine failed: {' '.join(str(error).split())}") from error


def _take_away(client: DockerClient, name: str) -> None:
    """Ends and removes a container, unless it is gone, or about to be."""
    from docker.errors import APIError

    try:
        client.api.remove_container(name, force=True)
    except APIError as error:
        if error.status_code not in (404, 409):
            raise


def _engine() -> DockerClient:
    """A client of the engine that answers.

    Raises:
        MlopsError: none does.
    """
    try:
        import docker
    except ImportError as error:
        raise MlopsError("--runner docker needs the Python package docker; pip install docker") from error
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        raise MlopsError(
            "no Docker engine answers; start one, set DOCKER_HOST, or use --runner subprocess "
            f"({' '.join(str(error).split())})"
        ) from error
    return client


def _check_policy(arguments: Mapping[str, Any]) -> None:
    import yaml

    policy = yaml.safe_load(arguments.get("policy") or "") or {}
    if policy.get("auto_promote") and _local(arguments["production"]) is not None:
        raise InputError(
            "the policy says auto_promote, but --runner docker mounts production read-only; take it out, and use "
            "`mlops promote` after the run"
        )


def _local(uri: str | None) -> Path | None:
    """The absolute path behind a URI; None where it isn't local, or empty."""
    if not uri or ("://" in uri and not uri.startswith("file://")):
        return None
    return storage.local_path(uri).resolve()


def _records(tracking: str) -> Path | None:
    """The folder that holds MLflow's records, where that isn't a server."""
    if tracking.startswith("sqlite:///"):
        return Path(tracking.removeprefix("sqlite:///")).resolve().parent
    return _local(tracking)


def _environment(uris: Iterable[str]) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    schemes = {uri.partition("://")[0] for uri in uris}
    for scheme, files in _CREDENTIALS.items():
        for name, default in files.items():
            if scheme in schemes and name not in found and (path := Path(default).expanduser()).is_file():
                found[name] = str(path)
    if settings.experiment_stop_command():
        # not the command, which is of this machine
        found["MLOPS_EXPERIMENT_STOP_OUTSIDE"] = "yes"
    return found


def _is_file(value: str) -> bool:
    return value.startswith("/") and len(value) < os.pathconf("/", "PC_PATH_MAX") and Path(value).is_file()


def _network(uris: Iterable[str], environment: Mapping[str, str]) -> str:
    """No network where everything is on this disk, this machine's own where something is at its localhost."""
    remote = [uri for uri in uris if _local(uri) is None]
    if not remote and not notify.configured():
        return "none"
    addresses = [value for name, value in environment.items() if name.lower() != "no_proxy"]
    return "host" if any(map(_LOOPBACK.search, [*remote, *addresses])) else "bridge"
