"""`mlops experiment`: shadow and A/B tests in front of two services, and what they say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from matchmaking.base.errors import InputError
from matchmaking.base.escape import say
from mlops.cli import experiment_results, experiment_shadow

app = typer.Typer(no_args_is_help=True, help="Shadow and A/B tests: a gateway in front of two services.")
Folder = Annotated[Path, typer.Option(help="Where the definition, the exposure log and the programs' output go.")]


class Begin(StrEnum):
    """What a gateway may begin with."""

    shadow = "shadow"
    ab = "ab"


@app.command()
def up(
    champion: Annotated[Path, typer.Option(help="Folder of production's three files.")],
    challenger: Annotated[Path, typer.Option(help="Folder of the challenger's.")],
    service: Annotated[
        str,
        typer.Option(help="Command line of the service, run without a shell: {models} is its folder, {port} its port."),
    ],
    name: Annotated[str, typer.Option(help="The experiment's; clients are assigned by it.")] = "experiment",
    mode: Annotated[Begin, typer.Option(help="Copies to the challenger, or an A/B test.")] = Begin.shadow,
    share: Annotated[float, typer.Option(help="ab: each arm's share of the clients, in percent; 50 at most.")] = 1.0,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the gateway listens on 127.0.0.1.")] = 8000,
    champion_port: Annotated[int, typer.Option(min=0, max=65535, help="The champion's; 0 for a free one.")] = 0,
    challenger_port: Annotated[int, typer.Option(min=0, max=65535, help="The challenger's; 0 for a free one.")] = 0,
    ship: Annotated[str, typer.Option(help="Folder or URI that the parts of the exposure log are moved to.")] = "",
    folder: Folder = Path("work/experiment"),
) -> None:
    """Run two services with nginx in front of them, until Ctrl-C ends all three.

    Callers ask the gateway in the service's place, and name the client in the header X-Client-Id.
    """
    from mlops.local import gateway

    gateway.up(
        (name, mode.value, share if mode == Begin.ab else 0.0),
        {"champion": champion, "challenger": challenger},
        service,
        folder,
        port,
        (champion_port, challenger_port),
        ship,
        say,
    )


@app.command()
def ramp(
    share: Annotated[float, typer.Argument(help="Each arm's share of the clients, in percent; 50 at most.")],
    folder: Folder = Path("work/experiment"),
) -> None:
    """Change the share of a running experiment, or go from shadow to A/B; clients keep their arm as it rises."""
    from mlops.local import gateway

    if not share:
        raise InputError("a share of 0 is the way back: `mlops experiment stop`")
    gateway.change(folder, "ab", share, say)


@app.command()
def stop(folder: Folder = Path("work/experiment")) -> None:
    """Give every client the champion again, at once, and log no more; the gateway and the services go on."""
    from mlops.local import gateway

    gateway.change(folder, "off", 0.0, say)


experiment_results.register(app)
experiment_shadow.register(app)
