"""What a won experiment says for its challenger: read from its MLflow record, and refused unless all of it agrees."""

from __future__ import annotations

import hashlib
import math
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from matchmaking import tracking
from matchmaking.base.errors import InputError, RefusedError
from matchmaking.base.records import SHORT, Record, Sha256, read_record
from matchmaking.base.stamps import read_stamp
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.record import (
    BY_HAND,
    ENDED_TAG,
    REASON_TAG,
    REPORTS,
    RESULTS,
    VERDICT_TAG,
    recorded,
    report_folders,
)

# decisions that no more data take back: who has reported one, and later another, has read other logs
FINAL = ("worse", "equivalent", "harmful")
# a pair without an outcome counts as no match: where outcomes come more often in one arm, that alone is a difference
APART = "labels-arrive-apart"
Count = Annotated[int, Field(ge=0)]


class Win(BaseModel):
    """An experiment that found its challenger better, with the numbers of its newest report.

    Attributes:
        experiment: its name.
        sha256: of its definition.
        run_id: its MLflow run.
        report: the report's folder among that run's artifacts; its name has the time.
        report_sha256: of the numbers in there (`experiment.json`).
        day: the full days since the start that the report has read.
        decided_on_day: the first day that decided.
        metric: what is compared.
        difference: challenger less champion, at the report's last look.
        low, high: the confidence sequence there, which holds on all days at once.
        level: how surely.
        champion_clients, challenger_clients: that count.
        unjudged: slices whose recall the definition guards, with too few matches for that.
        noticed: codes of the checks that found something without forbidding to read the results: `bot`, say.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    experiment: str
    sha256: Sha256
    run_id: str
    report: str
    report_sha256: Sha256
    day: Count
    decided_on_day: Count
    metric: str
    difference: float
    low: float
    high: float
    level: float
    champion_clients: Count
    challenger_clients: Count
    unjudged: list[str] = []
    noticed: list[str] = []

    def __str__(self) -> str:
        clients = f"{self.champion_clients:,} and {self.challenger_clients:,} clients"
        unjudged = f"; recall not judged in {', '.join(self.unjudged)}" if self.unjudged else ""
        unjudged += f"; noticed: {', '.join(self.noticed)}" if self.noticed else ""
        return (
            f"experiment {self.experiment} (sha256 {self.sha256[:SHORT]}, MLflow run {self.run_id}) found it better on "
            f"day {self.decided_on_day}: {self.metric} {self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f}, "
            f"{self.level:.4g} % on all days at once) of {clients}, as of day {self.day}{unjudged}"
        )


class _Guardrail(BaseModel):
    name: str


class _Check(BaseModel):
    code: str
    found: bool = True
    stops: bool = False
    said: str = ""


class _Numbers(Record):
    """What a win needs of a report's `experiment.json`."""

    experiment: str
    sha256: Sha256
    verdict: str
    day: Count
    decided_on_day: Count | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    champion_clients: float | None = None
    challenger_clients: float | None = None
    guardrails: tuple[_Guardrail, ...] = ()
    checks: tuple[_Check, ...] = ()
    to_come: bool = False


def find_win(name: str, challenger: str, champion: str) -> Win:
    """The evidence that an experiment is for one model in another's place.

    Args:
        name: the experiment's.
        challenger: sha256 of the .h5 that it is to speak for.
        champion: sha256 of the .h5 that production serves now; empty for none.

    Raises:
        InputError: no experiment of this name is recorded.
        RefusedError: it is about other models, was ended by hand, hasn't found its challenger better, or its record
            contradicts itself.
        TrackingError: the server can't be reached.
    """
    run_id, definition = recorded(name)
    for role, its, now, where in (
        ("challenger", definition.challenger, challenger, "the candidate is"),
        ("champion", definition.champion, champion, "production holds"),
    ):
        if its != now:
            raise RefusedError(
                f"experiment {name} is about another comparison: its {role} is {its[:SHORT]}, and {where} "
                f"{now[:SHORT] or 'no model'} (sha256)"
            )
    with tracking.told("can't read the experiment"):
        run = tracking.client().get_run(run_id)
    # a parameter and the time of its start can't be changed in MLflow, as a tag and a file can
    if run.data.params.get("definition_sha256") != definition.sha256:
        raise RefusedError(f"experiment {name}: its definition was changed after it was recorded (sha256)")
    if run.info.start_time > definition.start.timestamp() * 1000:
        raise RefusedError(f"experiment {name} was recorded after its start: what it is to show wasn't fixed before")
    if run.data.tags.get(ENDED_TAG) == BY_HAND:
        why = run.data.tags.get(REASON_TAG) or "no reason given"
        raise RefusedError(f"experiment {name} was ended by hand, so it is no evidence: {why}")
    reports = _reports(run_id, name)
    said = run.data.tags.get(VERDICT_TAG)
    if not reports or said is None:
        raise RefusedError(f"experiment {name} has no report; `mlops experiment report {name}` makes one")
    if said != "better":
        raise RefusedError(f"experiment {name} doesn't say that the candidate is better; its verdict is '{said}'")
    return _agreed(name, run_id, definition, reports)


def _agreed(name: str, run_id: str, definition: Definition, reports: dict[str, tuple[_Numbers, str]]) -> Win:
    """The newest report as evidence, where nothing in the record speaks against it."""
    folder = max(reports)
    newest, sha256 = reports[folder]
    again = f"run `mlops experiment report {name}` again"
    if newest.verdict != "better":
        raise RefusedError(
            f"experiment {name} has the tag 'better', and its newest report ({folder}) says '{newest.verdict}': {again}"
        )
    if (newest.experiment, newest.sha256) != (name, definition.sha256):
        raise RefusedError(
            f"experiment {name}: its newest report ({folder}) is of another definition (sha256): {again}"
        )
    if _to_come(definition, folder, newest):
        raise RefusedError(
            f"experiment {name}: its newest report ({folder}) looks at day {newest.day}, which wasn't over then, so "
            f"outcomes that were to come count as none: {again}, without a later --until"
        )
    for other, (numbers, _) in sorted(reports.items()):
        if _to_come(definition, other, numbers):
            # it says nothing, as it knew nothing of its last days
            continue
        if numbers.day > newest.day:
            raise RefusedError(
                f"experiment {name}: its newest report ({folder}) ends with day {newest.day}, and {other} with day "
                f"{numbers.day}, which says '{numbers.verdict}': {again}, without an earlier --until"
            )
        if numbers.verdict in FINAL:
            raise RefusedError(
                f"experiment {name} contradicts itself: {other} says '{numbers.verdict}', which nothing takes back, "
                f"and {folder} 'better'"
            )
    noticed = [one for one in newest.checks if one.found]
    for one in noticed:
        if one.stops or one.code == APART:
            raise RefusedError(
                f"experiment {name}: its newest report ({folder}) says 'better', and its check {one.code} has found "
                f"something: {one.said}"
            )
    given = (newest.difference, newest.low, newest.high, newest.champion_clients, newest.challenger_clients)
    there = [value for value in given if value is not None and math.isfinite(value)]
    if len(there) < len(given) or newest.decided_on_day is None:
        raise RefusedError(f"experiment {name}: its newest report ({folder}) lacks the numbers of its verdict: {again}")
    difference, low, high, of_champion, of_challenger = there
    if not 0 < low < high:
        raise RefusedError(
            f"experiment {name}: its newest report ({folder}) says 'better' of a difference within {low:+.4f} and "
            f"{high:+.4f}"
        )
    judged = {one.name for one in newest.guardrails}
    guarded = [f"{column}={value}" for column, values in definition.guardrails.slices.items() for value in values]
    unjudged = [one for one in guarded if f"recall {one}" not in judged]
    if guarded and unjudged == guarded:
        raise RefusedError(
            f"experiment {name}: its newest report ({folder}) judges the recall of none of the slices that the "
            f"definition guards: {again}, with --pairs"
        )
    return Win(
        experiment=name,
        sha256=definition.sha256,
        run_id=run_id,
        report=folder,
        report_sha256=sha256,
        day=newest.day,
        decided_on_day=newest.decided_on_day,
        metric=definition.primary,
        difference=difference,
        low=low,
        high=high,
        level=100 * (1 - definition.alpha),
        champion_clients=int(of_champion),
        challenger_clients=int(of_challenger),
        unjudged=unjudged,
        noticed=[one.code for one in noticed],
    )


def _to_come(definition: Definition, folder: str, numbers: _Numbers) -> bool:
    """Whether a report's last day wasn't over when it was made, or isn't now."""
    over = definition.start + timedelta(days=numbers.day)
    try:
        made = read_stamp(folder.removeprefix(REPORTS))
    except InputError:
        raise RefusedError(f"{folder} among the artifacts of experiment {definition.name} has no time") from None
    # stamps have whole seconds
    return numbers.to_come or over > min(made + timedelta(seconds=1), datetime.now(UTC))


def _reports(run_id: str, name: str) -> dict[str, tuple[_Numbers, str]]:
    """Its reports by their folders, whose names end with the time: the numbers, and the sha256 of their file.

    What was cut off before its numbers came is none.

    Raises:
        RefusedError: one can't be read.
    """
    found: dict[str, tuple[_Numbers, str]] = {}
    client: Any = tracking.client()
    with tempfile.TemporaryDirectory() as local, tracking.told("can't read the experiment's reports"):
        for folder in report_folders(run_id):
            data = Path(client.download_artifacts(run_id, f"{folder}/{RESULTS}", local)).read_bytes()
            numbers = read_record(_Numbers, data, f"experiment {name}: {folder}/{RESULTS}")
            found[folder] = (numbers, hashlib.sha256(data).hexdigest())
    return found
