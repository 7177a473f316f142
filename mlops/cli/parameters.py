"""The options that `mlops submit` and `mlops schedule` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from matchmaking.base.settings import kfp_host
from matchmaking.model.sweep import MOST_TRIALS

if TYPE_CHECKING:
    from mlops.kubeflow.kfp_api import Server


# what names data whose size counts
DATA_ARGUMENTS = ("data", "current", "production_data", "predictions", "exposures")
Host = Annotated[str, typer.Option(help="Kubeflow Pipelines.", show_default="MLOPS_KFP_HOST, or http://localhost:8080")]
Data = Annotated[
    str, typer.Option(help="The dataset, as the cluster sees it: a file, a folder of parts, or a pattern.")
]
Production = Annotated[str, typer.Option(help="The production model's place, as the cluster sees it.")]
Candidates = Annotated[str, typer.Option(help="retrain, sweep: where packages go.")]
Trials = Annotated[int, typer.Option(min=2, max=MOST_TRIALS, help="sweep: recipes to try, the default one among them.")]
Predictions = Annotated[str, typer.Option(help="observe: the prediction log, as the cluster sees it.")]
Outcomes = Annotated[str, typer.Option(help="observe: the outcome log, as the cluster sees it.")]
Exposures = Annotated[str, typer.Option(help="experiment: the gateway's log, as the cluster sees it.")]
Pairs = Annotated[str, typer.Option(help="experiment: what is known of the requests, as the cluster sees it.")]
Current = Annotated[
    str, typer.Option(envvar="MLOPS_CURRENT", help="monitor, monitor-parts: the data of now, to compare with --data.")
]


def open_server(host: str) -> Server:
    """The server, once it has answered: what is slow comes afterwards."""
    from mlops.kubeflow.kfp_api import Server

    server = Server(host or kfp_host())
    server.check()
    return server
