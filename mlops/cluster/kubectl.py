"""kubectl and other tools, run with retries, and the lines that say how far they are."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from matchmaking.base.errors import MlopsError
from matchmaking.base.escape import for_rich, for_terminal, log_lines
from mlops.cluster.capacity import KFP, PLATFORM

NAME = "legalaid-mlops"
NAMESPACES = (PLATFORM, KFP)
# a namespace that was just made, a webhook that starts, a registry's hiccup: gone by the next try
TRIES, WAIT_SECONDS = 4, 5.0
POLL_SECONDS = 3.0
# without a terminal, how often a step that takes long says that it goes on
BEAT_SECONDS = 30.0


@dataclass(frozen=True)
class Kubectl:
    """kubectl on one context, whatever the current one is."""

    context: str

    def __call__(self, *args: str, stdin: str | None = None, tries: int = 1, seconds: float = 600) -> str:
        return run("kubectl", "--context", self.context, *args, stdin=stdin, tries=tries, seconds=seconds)

    def items(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        return list(json.loads(self("get", kind, "--namespace", namespace, "--output=json", tries=TRIES))["items"])

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        # by the server, as CRDs are too large for the annotation that kubectl keeps otherwise
        self("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=listed, tries=TRIES)


@contextlib.contextmanager
def announced(name: str) -> Iterator[Callable[..., None]]:
    """A line when it has ended, with its time, and a spinner that says where it is.

    Without a terminal, a line each time that something else is waited for, and every half a minute. What it gives is
    called with what is to be said, and with what has to differ for that to be something else.
    """
    from rich.console import Console

    console, begin = Console(stderr=True, highlight=False, soft_wrap=True), time.monotonic()
    if console.is_terminal:
        with console.status(f"  {name}") as spinner:
            yield lambda text, *_: spinner.update(f"  {name}: {for_rich(text)}")
    else:
        state: dict[str, Any] = {"text": "", "about": None}
        ended = threading.Event()

        def line() -> None:
            now = f"{time.monotonic() - begin:.0f} s"
            text = for_terminal(state["text"])
            console.print(f"  {name}, {now}: {text}" if text else f"  {name}, {now}", markup=False)

        def say(text: str, *about: object) -> None:
            changed, state["text"], state["about"] = state["about"] != (about or text), text, about or text
            if changed:
                line()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                line()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield say
        finally:
            ended.set()
            thread.join()
    console.print(f"  {name:<18}{time.monotonic() - begin:6.1f} s")


def run(*command: str, stdin: str | None = None, tries: int = 1, seconds: float = 600) -> str:
    """What a program prints.

    Args:
        command: the program and its arguments; never a secret, as they can be seen.
        stdin: what it reads.
        tries: how often it may fail before that counts.
        seconds: that it may take.

    Raises:
        MlopsError: it failed; the message has the last lines it said.
    """
    for attempt in range(tries):
        if attempt:
            time.sleep(WAIT_SECONDS)
        try:
            done = subprocess.run(
                command,
                input=stdin or "",
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except FileNotFoundError:
            raise MlopsError(f"{command[0]} isn't installed") from None
        except subprocess.TimeoutExpired:
            said = f"no end after {seconds:.0f} s"
            continue
        if done.returncode == 0:
            return done.stdout
        said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
    shown = " ".join(part for part in command[:6] if not part.startswith("--context"))
    raise MlopsError(f"{shown}: {said[-600:]}")


def say_log(text: str) -> None:
    for line in log_lines(text):
        typer.echo(line)
