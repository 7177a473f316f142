"""Whether a gateway does what an experiment's definition says, asked before anybody is exposed.

Afterwards `integrity` finds most of it in the log, and stops the reading: by then the traffic has been spent.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from matchmaking.base.errors import RefusedError
from matchmaking.base.redact import redact
from matchmaking.experiments.definition import VARIANTS, Definition
from matchmaking.experiments.gateway import Gateway
from matchmaking.experiments.record import ended_as, is_recorded, recorded


def disagreements(gateway: Gateway, definition: Definition, now: datetime) -> list[str]:
    """What of a gateway isn't as the definition says, each in a few words; none where it agrees.

    Args:
        gateway: its record.
        definition: the experiment's.
        now: UTC; before the experiment's start nobody may be in an arm.
    """
    found = []
    if gateway.experiment != definition.name:
        found.append(f"the gateway is {gateway.experiment}'s, the definition {definition.name}'s")
    if gateway.salt != definition.salt:
        found.append(f"clients are assigned by the salt '{gateway.salt}', not '{definition.salt}'")
    for variant in VARIANTS:
        serves, should = getattr(gateway, variant).model, getattr(definition, variant)
        if serves != should:
            found.append(f"the {variant} is the model {serves[:12]}, not {should[:12]}")
    if gateway.mode == "ab" and gateway.share > definition.share:
        found.append(f"each arm has {gateway.share:g} % of the clients, not at most {definition.share:g} %")
    if gateway.mode == "ab" and gateway.share and now < definition.start:
        found.append(f"it exposes clients before the start, {definition.start.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    return found


def refuse_disagreement(gateway: Gateway, definition: Definition, now: datetime | None = None) -> None:
    """Refuses a gateway that isn't as the definition says.

    Args:
        gateway: its record.
        definition: the experiment's.
        now: UTC; the clock's if left out.

    Raises:
        RefusedError: with all that differs.
    """
    if wrong := disagreements(gateway, definition, now or datetime.now(UTC)):
        raise RefusedError(
            f"the gateway isn't what the definition of {definition.name} says, so what it logs couldn't be read: "
            f"{'; '.join(wrong)}"
        )


def check_recorded(gateway: Gateway) -> str:
    """Holds a gateway against the definition that is recorded for its experiment.

    Returns:
        What was found, in a line: that it agrees, or that none is recorded.

    Raises:
        RefusedError: it isn't as the definition says, or the experiment has ended.
        TrackingError: MLflow can't be reached.
    """
    name = gateway.experiment
    if not is_recorded(name):
        return unrecorded(name)
    run_id, definition = recorded(name)
    if gateway.mode != "off" and (ended := ended_as(run_id)):
        raise RefusedError(f"{name} has ended ({ended}): what comes now is another experiment, of another name")
    refuse_disagreement(gateway, definition)
    return f"{name}: models, salt and share are as its definition says ({definition.sha256[:12]})"


def unrecorded(name: str, where: str = "") -> str:
    """What it means that an experiment has no definition.

    Args:
        name: the experiment's.
        where: it was looked for; MLflow's records if left out.
    """
    where = where or redact(os.environ.get("MLFLOW_TRACKING_URI", "MLflow"))
    return (
        f"No definition of {name} is recorded in {where}: whoever is exposed now is in no experiment that can be read "
        "(`mlops experiment start` records one, before its start)"
    )
