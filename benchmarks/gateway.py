"""What the gateway of an experiment costs its callers: `python -m benchmarks.gateway`.

Two services that behave as production's does (tests/services/match_service.py), nginx before them, and requests at a
steady rate, begun at their time whatever became of those before, each on a connection of its own. Beside those through
the gateway a tenth as many ask the champion directly, in between and so under the same load. What the gateway adds is
less than what two requests differ by there, so it is measured once more afterwards, one request at a time, in turn
through the gateway and directly: the difference of the two medians.

The model is a dense net as production's is, made for it, unless `--champion` names another: two services with a
candidate of ours, which takes four times as long, and the client are too much for two cores at that rate.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import psutil

from matchmaking.experiments.exposures import read_exposures
from mlops.local.gateway import change
from tests.conftest import train_incumbent
from tests.services.load import PAYLOAD, Answer, ask, load, milliseconds

SERVICE = f"{sys.executable} -m tests.services.match_service {{models}} {{port}}"
PORTS = (28080, 28081, 28082)
PAIRS = 1000
MODES = (("off", 0.0), ("shadow", 0.0), ("ab", 50.0))


async def both(gateway: int, champion: int, rate: float, seconds: float) -> tuple[list[Answer], list[Answer]]:
    """The answers through the gateway, and those of the champion itself."""
    through, direct = load(gateway, rate, seconds), load(champion, rate / 10, seconds, offset=0.5 / rate)
    return tuple(await asyncio.gather(through, direct))  # type: ignore[return-value]


def wait_for(port: int) -> None:
    """Until a service answers: the gateway is there for callers before the challenger is."""
    last = time.monotonic() + 60
    while asyncio.run(ask(port, None, PAYLOAD))[0] != 200:
        if time.monotonic() > last:
            raise SystemExit(f"the service on port {port} doesn't answer")
        time.sleep(0.1)


async def in_turn(gateway: int, champion: int, pairs: int) -> float:
    """What the gateway adds to the median of requests that are alone, in ms."""
    seconds: dict[int, list[float]] = {gateway: [], champion: []}
    for _ in range(pairs):
        for port, found in seconds.items():
            begun = time.perf_counter()
            status, _ = await ask(port, f"client-{len(found):04d}", PAYLOAD)
            assert status == 200
            found.append(time.perf_counter() - begun)
    return 1000 * (statistics.median(seconds[gateway]) - statistics.median(seconds[champion]))


def measure(models: tuple[Path, Path], folder: Path, mode: str, share: float, rate: float, seconds: float) -> None:
    """One mode, in an experiment of its own; prints its row."""
    command = [
        *(
            sys.executable,
            "-c",
            "from mlops.cli.app import main; main()",
            "experiment",
            "up",
            "--service",
            SERVICE,
            "--folder",
            str(folder),
        ),
        *("--champion", str(models[0]), "--challenger", str(models[1]), "--name", f"bench-{mode}"),
        *("--port", str(PORTS[0]), "--champion-port", str(PORTS[1]), "--challenger-port", str(PORTS[2])),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("The gateway answers"):
                    break
            else:
                raise SystemExit("the experiment didn't start")
            if mode != "shadow":
                change(folder, "off" if mode == "off" else "ab", share, lambda _: None)
            wait_for(PORTS[2])
            asyncio.run(both(PORTS[0], PORTS[1], rate, 2))  # what is warmed up isn't counted
            through, direct = asyncio.run(both(PORTS[0], PORTS[1], rate, seconds))
            added = asyncio.run(in_turn(PORTS[0], PORTS[1], PAIRS))
        finally:
            # as Ctrl-C, which what a script started in the background doesn't notice
            process.terminate()
            process.wait()
    errors = sum(each.status != 200 for each in through)
    own = sum(each.status != 200 for each in direct)
    (mine, late), (theirs, their_late) = milliseconds(through, 0.5, 0.99), milliseconds(direct, 0.5, 0.99)
    row = (mode, f"{len(through):,}", errors, own, f"{theirs:.1f}", f"{mine:.1f}")
    print("| " + " | ".join(map(str, (*row, f"{their_late:.0f}", f"{late:.0f}", f"{added:+.2f}"))) + " |", flush=True)
    if mode != "off":
        frame = read_exposures(folder / "log").frame
        print(
            f"  logged: {dict(Counter(frame['variant']))}, statuses {dict(Counter(frame['status']))}", file=sys.stderr
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--champion", type=Path, help="a folder of production's three files; a dense net, if left out")
    parser.add_argument("--challenger", type=Path, help="the champion's, if left out")
    parser.add_argument("--rate", type=float, default=200, help="requests a second through the gateway")
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    cores, busy = psutil.cpu_count(), psutil.cpu_percent(1)
    print(
        f"{cores} cores, {busy:.0f} % busy with other work at the start; Python {platform.python_version()}; ", end=""
    )
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or "nginx"
    print(subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr.strip())
    print(f"{given.rate:g} requests/s for {given.seconds:g} s, and a tenth of that asks the champion directly; ms\n")
    with tempfile.TemporaryDirectory() as place:
        champion = given.champion
        if champion is None:
            (Path(place) / "made").mkdir()
            with redirect_stdout(io.StringIO()):
                train_incumbent(Path(place) / "made")
            champion = Path(place) / "made" / "production"
        heads = ("mode", "requests", "errors", "errors, directly", "median directly", "median")
        print("| " + " | ".join((*heads, "p99 directly", "p99", "added, alone")) + " |\n|---|" + "---:|" * 8)
        models = [Path(place) / "champion", Path(place) / "challenger"]
        for source, folder in zip((champion, given.challenger or champion), models, strict=True):
            shutil.copytree(source, folder)
        for mode, share in MODES:
            measure((models[0], models[1]), Path(place) / mode, mode, share, given.rate, given.seconds)
            time.sleep(1)


if __name__ == "__main__":
    main()
