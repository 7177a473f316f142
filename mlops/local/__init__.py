"""The pipelines on this machine: `kfp.local`, a subprocess or a container a step."""

from enum import StrEnum


class Runner(StrEnum):
    """Where the steps execute."""

    subprocess = "subprocess"
    docker = "docker"


RUNNERS = tuple(each.value for each in Runner)
