"""What an experiment is, fixed before its first exposure: one record, whose sha256 names it.

Whatever in it changes later makes another sha256, so another experiment.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from matchmaking.base.records import Record, Sha256
from matchmaking.evidence.policy import SliceColumn

Variant = Literal["champion", "challenger"]
VARIANTS: tuple[Variant, Variant] = ("champion", "challenger")
# of both a client's match rate is matches that have come by its deadline, by pairs that were asked about
Metric = Literal["match_rate", "client_match_rate"]
NAME = r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?"
Days = Annotated[float, Field(gt=0, le=400)]
# the arms are of equal size at every share: of who is in the experiment, half get the challenger
CHALLENGERS = 0.5


class Guardrails(BaseModel):
    """What stops the experiment by itself, once shown. Half of `alpha` is latency's and errors', half is recall's.

    Of the first half, half goes to the sequences of first days (`guardrails`), half to all days (`daily`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    slower: float = Field(default=0.10, ge=0, description="latency's typical ratio less 1 that is tolerated")
    errors: float = Field(default=0.005, ge=0, lt=1, description="more of a client's requests may fail, as a share")
    recall: float = Field(default=0.05, ge=0, lt=1, description="recall that may be lost in a slice")
    slices: dict[SliceColumn, tuple[str, ...]] = Field(default={}, description="values whose recall is judged")
    window_days: Days = Field(
        default=1.0, description="of the sequences of first days: of a client's requests, from its first"
    )


class Definition(Record):
    """An experiment; immutable, with nothing in it that isn't known here.

    Attributes:
        primary: `match_rate`, where each pair counts the same, or `client_match_rate`, where each client does.
        effect: the smallest difference of the primary metric worth having, absolute.
        window_days: a client's pairs count that were asked about within so many days of its first exposure.
        label_delay_days: after those, the outcomes have so long to come; what comes later doesn't count.
        share: of each arm; who is in neither gets the champion and is no part of the experiment.
        planned_clients: of both arms together; `planned_days`, from `start` until all of them have been exposed.
        adjust: whether the estimate is adjusted by the champion's own score.
        first_look: clients of each arm before anything is read: the asymptotics need some.
        bot_pairs: a client that asks about more in its window is taken for a program, and left out of both arms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    hypothesis: Annotated[str, Field(min_length=1, max_length=2000)]
    unit: Literal["client"] = "client"
    champion: Sha256
    challenger: Sha256
    salt: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
    share: float = Field(default=50.0, gt=0, le=50, description="each arm's of the clients, in percent, once ramped up")
    start: AwareDatetime
    primary: Metric = "match_rate"
    effect: Annotated[float, Field(gt=0, lt=1)]
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    power: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    window_days: Days = 7.0
    label_delay_days: Days
    planned_clients: Annotated[int, Field(ge=100)]
    planned_days: Annotated[int, Field(ge=1, le=400)]
    adjust: bool = True
    first_look: Annotated[int, Field(ge=50)] = 200
    bot_pairs: Annotated[int, Field(ge=1)] = 1000
    guardrails: Guardrails = Guardrails()

    @property
    def canonical(self) -> str:
        """The record as JSON whose bytes depend on nothing but its values: keys sorted, no white space."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @property
    def sha256(self) -> str:
        """What names the experiment: the sha256 of `canonical`, in hex."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def last_day(self) -> int:
        """Days from `start` until the last planned client's outcomes are in, rounded up."""
        return int(-(-(self.planned_days + self.window_days + self.label_delay_days) // 1))
