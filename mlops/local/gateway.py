"""An experiment on this machine: two services, nginx in front of them, and an end for all three, however it comes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.experiments.gateway import DEFINITION, LOGS, Gateway, Mode, read_gateway, write_gateway
from mlops.local.processes import Processes

CHANGES, PLACE = "changes.log", "listen"
# seconds
START, QUIT, RELOAD, SHIP = 180, 20, 30, 10
# a service that ends at once isn't started ever faster
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
Say = Callable[[str], None]
Check = Callable[[Gateway], None]


def nginx_program() -> str:
    """The path of nginx.

    Raises:
        InputError: it isn't installed.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not found:
        raise InputError("nginx isn't installed; on Debian and Ubuntu, `apt-get install nginx` brings it")
    return found


def up(
    gateway: tuple[str, Mode, float],
    folders: dict[str, Path],
    service: str,
    folder: Path,
    port: int,
    ports: tuple[int, int],
    ship_to: str,
    say: Say,
    check: Check = lambda _: None,
    version: tuple[str, str] = ("", ""),
) -> None:
    """Runs an experiment until it is interrupted.

    Args:
        gateway: the experiment's name, the mode and the share to begin with.
        folders: by variant, each with production's three files.
        service: the command line of a service, with `{models}` for its folder and `{port}`.
        folder: for the definition, the logs and the programs' own output.
        port: where the gateway listens on 127.0.0.1.
        ports: the champion's and the challenger's; 0 for any that is free.
        ship_to: where the exposure log's parts go; empty for nowhere.
        say: told how it goes, a line each time.
        check: given what the gateway is to do before anything is started, where clients are to have arms.
        version: of the service, for the exposure log; or in its place a header of its answers that has it.

    Raises:
        InputError: something given is wrong: a model, the command, a port that is taken, no nginx.
        MlopsError: a program ended before it served.
    """
    from matchmaking.experiments.exposures import ship
    from matchmaking.model import production

    program, commands = nginx_program(), _commands(service)
    name, mode, share = gateway
    numbers = dict(zip(folders, _free(ports, but=port), strict=True))
    for number in (port, *numbers.values()):
        _check_free(number)
    for variant, models in folders.items():
        production.check_bundle(models)
        say(f"{variant}: {models}, model {production.hashes(models)[production.MODEL][:12]}")
    arms = {
        variant: {
            "address": f"127.0.0.1:{numbers[variant]}",
            "model": production.hashes(models)[production.MODEL],
            "folder": str(models),
            "service": version[0],
        }
        for variant, models in folders.items()
    }
    definition = _definition({"experiment": name, "mode": mode, "share": share, "service_header": version[1], **arms})
    if mode == "ab":
        check(definition)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        processes = Processes(folder)
        ended = threading.Event()
        shipper: threading.Thread | None = None
        try:
            for variant, models in folders.items():
                processes.start(variant, commands(models, numbers[variant]))
            for variant in folders:
                _wait_for(processes, variant, numbers[variant], say)
            (folder / PLACE).write_text(f"127.0.0.1:{port}")
            _write(definition, folder)
            processes.start("nginx", [program, "-e", "stderr", "-c", str(folder.absolute() / "nginx.conf")], TZ="UTC")
            _wait_for(processes, "nginx", port, say)
            if ship_to:
                shipper = threading.Thread(target=_ship, args=(folder, ship_to, ended, say), daemon=True)
                shipper.start()
            say(f"The gateway answers on http://127.0.0.1:{port}: {_told(definition)}. Exposure log: {folder / LOGS}")
            say("`mlops experiment ramp SHARE` changes the share, `mlops experiment stop` is the way back")
            say("Ctrl-C ends all three")
            _watch(processes, folders, commands, numbers, say)
        finally:
            say("Ending: nginx answers what it has taken on, then the services are ended")
            if "nginx" in processes.running:
                processes.stop("nginx", signal.SIGQUIT, QUIT)
            processes.close()
            ended.set()
            if shipper:
                shipper.join(SHIP)
                ship(folder / LOGS, ship_to, everything=True)
            say("Ended")


def change(folder: Path, mode: Mode, share: float, say: Say, check: Check = lambda _: None) -> Gateway:
    """Changes what the gateway does, while it runs: no request is lost, and after this all follow the new rule.

    Args:
        folder: of the gateway.
        mode: what it is to do.
        share: each arm's, in percent; of no meaning but in "ab".
        say: told how it went.
        check: given what it is to do before that is done, where clients are to have arms.

    Raises:
        InputError: none runs there, or the change can't be made.
        MlopsError: nginx refuses the configuration, or doesn't take it in time.
    """
    if not (folder / DEFINITION).exists():
        raise InputError(f"{folder} holds no experiment; `mlops experiment up` begins one")
    if mode == "ab":
        # not while it is locked: the way back waits for nobody
        check(read_gateway(folder / DEFINITION).changed(mode, share))
    begun = time.monotonic()
    with _locked(folder / ".change"):
        before = read_gateway(folder / DEFINITION)
        master = _master(folder)
        if mode == "ab" and before.mode == "off":
            raise InputError(f"{before.experiment} was stopped; what comes now is another experiment, of another name")
        definition = before.changed(mode, share)
        old = {child.pid for child in master.children()}
        _write(definition, folder)
        try:
            _check(folder)
        except MlopsError:
            _write(before, folder)
            raise
        master.send_signal(signal.SIGHUP)
        deadline = begun + RELOAD
        while not _reloaded(master, old):
            if time.monotonic() > deadline or not master.is_running():
                raise MlopsError(f"nginx hasn't taken the change after {RELOAD} s; {folder / 'nginx.log'} may say why")
            time.sleep(0.02)
    say(f"{definition.experiment}: {_told(definition)} (after {time.monotonic() - begun:.1f} s)")
    return definition


def stop(folder: Path, experiment: str, say: Say) -> None:
    """Gives everybody the champion again.

    Args:
        folder: of the gateway.
        experiment: only this one; where it was served once and isn't any more, nothing is changed. Empty for any.
        say: told how it goes.

    Raises:
        InputError: the folder is no gateway's, or never was this experiment's; none runs there, and none was named.
        MlopsError: as `change`; or nginx can't be seen, and something answers at the gateway's address all the same.
    """
    if experiment and (folder / DEFINITION).exists():
        serves = read_gateway(folder / DEFINITION).experiment
        if serves != experiment:
            if experiment not in _served(folder):
                raise InputError(f"{folder} is {serves}'s, and never was {experiment}'s; give --folder of its gateway")
            say(f"{folder} is {serves}'s by now, and {experiment} isn't served there any more: nothing was changed")
            return
        if not _runs(folder):
            if address := _answering(folder):
                raise MlopsError(
                    f"the gateway of {folder} can't be seen (nginx.pid), but something answers at {address}: "
                    f"{experiment} may be served still; end what listens there"
                )
            say(f"The gateway of {folder} isn't running: {experiment} isn't served there")
            return
    change(folder, "off", 0.0, say)


def _served(folder: Path) -> set[str]:
    """The experiments that a folder's gateway has ever been of, by the record of its changes."""
    with contextlib.suppress(OSError, ValueError):
        return {json.loads(line)["experiment"] for line in (folder / CHANGES).read_text().splitlines()}
    return set()


def _answering(folder: Path) -> str:
    """The address that a folder's gateway listened at, where somebody does; else empty."""
    with contextlib.suppress(OSError, ValueError):
        address = (folder / PLACE).read_text().strip()
        return address if _answers(int(address.rpartition(":")[2])) else ""
    return ""


def _runs(folder: Path) -> bool:
    with contextlib.suppress(InputError):
        return bool(_master(folder))
    return False


def _reloaded(master: psutil.Process, old: set[int]) -> bool:
    """Whether new workers are there and none of the old takes requests; those that they have, they answer."""
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = master.children()
        return any(each.pid not in old for each in workers) and all(
            each.pid not in old or "shutting down" in " ".join(each.cmdline()) for each in workers
        )
    return False


def _told(gateway: Gateway) -> str:
    if gateway.mode == "off":
        return "every request goes to the champion, and nothing is logged"
    if gateway.mode == "shadow":
        return "every request goes to the champion, and a copy to the challenger"
    return f"{gateway.share:g} % of the clients in each arm"


def _definition(values: dict[str, Any]) -> Gateway:
    from pydantic import ValidationError

    try:
        return Gateway.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(f"{'.'.join(map(str, first['loc'])) or 'the experiment'}: {first['msg']}") from None


def _write(gateway: Gateway, folder: Path) -> None:
    """The definition, nginx's configuration, and a line about the change."""
    # as root, nginx would give its workers to somebody who may not write here
    user = pwd.getpwuid(os.getuid()).pw_name if os.geteuid() == 0 else ""
    write_gateway(gateway, folder, (folder / PLACE).read_text(), user)
    line = {"time": datetime.now(UTC).isoformat(), "mode": gateway.mode, "share": gateway.share}
    with (folder / CHANGES).open("a") as changes:
        changes.write(json.dumps({**line, "experiment": gateway.experiment}) + "\n")


def _check(folder: Path) -> None:
    command = [nginx_program(), "-t", "-q", "-e", "stderr", "-c", str(folder.absolute() / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MlopsError(f"nginx refuses its configuration: {' '.join(done.stderr.split())}")


def _master(folder: Path) -> psutil.Process:
    try:
        found = psutil.Process(int((folder / "nginx.pid").read_text()))
        if "nginx" in found.name():
            return found
    except (OSError, ValueError, psutil.NoSuchProcess):
        pass
    raise InputError(f"the gateway of {folder} isn't running; `mlops experiment up` starts it")


def _commands(service: str) -> Callable[[Path, int], list[str]]:
    """The service's command line, once it has been found to have its two places.

    Raises:
        InputError: it hasn't, or is no command line.
    """
    try:
        words = shlex.split(service)
    except ValueError as error:
        raise InputError(f"--service: {error}") from None
    for place in ("{models}", "{port}"):
        if not any(place in word for word in words):
            raise InputError(
                f"--service needs {place}: 'gunicorn --bind 127.0.0.1:{{port}} ...' and where the models are"
            )
    return lambda models, port: [
        word.replace("{models}", str(models.absolute())).replace("{port}", str(port)) for word in words
    ]


def _watch(
    processes: Processes,
    folders: dict[str, Path],
    commands: Callable[[Path, int], list[str]],
    ports: dict[str, int],
    say: Say,
) -> None:
    """Starts a service again that has ended; ends with nginx."""
    pause = dict.fromkeys(folders, FIRST_PAUSE)
    due: dict[str, float] = {}
    since = dict.fromkeys(folders, time.monotonic())
    while True:
        if (code := processes.ended("nginx")) is not None:
            raise MlopsError(f"nginx has ended ({code}): {processes.last_words('nginx')}")
        now = time.monotonic()
        for variant in folders:
            if variant in due:
                if now >= due[variant]:
                    processes.start(variant, commands(folders[variant], ports[variant]))
                    since[variant] = now
                    del due[variant]
            elif variant in processes.running and (code := processes.ended(variant)) is not None:
                processes.stop(variant, signal.SIGTERM, 0)
                if now - since[variant] > LONGEST_PAUSE:
                    pause[variant] = FIRST_PAUSE
                say(f"The {variant} has ended ({code}), and is started again in {pause[variant]:g} s")
                due[variant] = now + pause[variant]
                pause[variant] = min(2 * pause[variant], LONGEST_PAUSE)
        time.sleep(0.1)


def _wait_for(processes: Processes, name: str, port: int, say: Say) -> None:
    begun = told = time.monotonic()
    while not _answers(port):
        now = time.monotonic()
        if (code := processes.ended(name)) is not None:
            raise MlopsError(f"{name} ended before it served ({code}): {processes.last_words(name)}")
        if now - begun > START:
            raise MlopsError(f"{name} doesn't listen on port {port} after {START} s; {name}.log may say why")
        if now - told > 10:
            say(f"Waiting for the {name} on port {port} ({now - begun:.0f} s)")
            told = now
        time.sleep(0.05)
    say(f"{name} listens on port {port} (after {time.monotonic() - begun:.1f} s)")


def _ship(folder: Path, uri: str, ended: threading.Event, say: Say) -> None:
    from matchmaking.experiments.exposures import ship

    while not ended.wait(SHIP):
        try:
            ship(folder / LOGS, uri)
        except MlopsError as error:
            # the parts stay here, and are tried again
            say(f"The exposure log wasn't shipped: {error}")


def _answers(port: int) -> bool:
    with socket.socket() as found:
        found.settimeout(1)
        return found.connect_ex(("127.0.0.1", port)) == 0


def _check_free(port: int) -> None:
    if _answers(port):
        raise InputError(f"port {port} is taken; choose another one")


def _free(ports: tuple[int, int], but: int) -> list[int]:
    with contextlib.ExitStack() as held:
        found = []
        for port in ports:
            while not port or port == but:
                claim = held.enter_context(socket.socket())
                claim.bind(("127.0.0.1", 0))
                port = int(claim.getsockname()[1])
            found.append(port)
    if len({*found, but}) < len(found) + 1:
        raise InputError("the gateway and the two services need three different ports")
    return found


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with _locked(folder / ".up", wait=False):
            yield
    except BlockingIOError:
        raise InputError(f"an experiment runs in {folder} already; end it, or give another --folder") from None
