"""An experiment as a gateway and a backend leave it: a definition of some weeks ago, its log, its outcomes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchmaking import tracking
from matchmaking.experiments import record
from matchmaking.experiments.assignment import assign
from matchmaking.experiments.definition import Definition
from tests.unit.experiments.test_definition import GIVEN

START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
DEFINITION: dict[str, Any] = {
    **GIVEN,
    **{"start": START.isoformat(), "window_days": 2, "label_delay_days": 3, "planned_clients": 3_000},
}
EARLY = (START + timedelta(days=6, hours=7)).isoformat()
# the day on which everything of the log is in
UNTIL = (START + timedelta(days=25, hours=7)).isoformat()


def record_earlier(values: Mapping[str, Any]) -> str:
    """Records a definition as on the day before its start, long ago as that may be; the id of its run."""
    definition = Definition.model_validate(values)
    then = definition.start - timedelta(days=1)

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return then

    client = tracking.client()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "datetime", Then)
        patch.setattr(client, "create_run", partial(client.create_run, start_time=int(then.timestamp() * 1000)))
        return record.record(definition)


def write_logs(folder: Path, gain: float, start: datetime = START, clients: int = 3_000) -> list[object]:
    """A log of so many clients, a line each, in two parts, their outcomes, and the options that name them."""
    rng = np.random.default_rng(0)
    lines, outcomes = [], []
    for number in range(clients):
        unit, day = f"client-{number}", 15 * number / clients
        arm = assign("embeddings-1", unit, 50)
        assert arm is not None
        line = {
            "version": 1,
            "time": (start + timedelta(days=day)).isoformat(timespec="milliseconds"),
            "experiment": "embeddings-1",
            "mode": "ab",
            "unit": unit,
            "variant": arm,
            "model": ("a" if arm == "champion" else "b") * 64,
            "request": f"{number:032x}",
            "status": "200",
            "latency_ms": 40.0 + rng.random(),
            "answered_by": arm,
        }
        lines.append(json.dumps(line))
        match = rng.random() < 0.2 + gain * (arm == "challenger")
        outcomes.append((unit, start + timedelta(days=day + 1), int(match), line["request"]))
    parts = folder / "exposures" / f"{start:%Y-%m-%d}"
    parts.mkdir(parents=True)
    (parts / "0000-a.jsonl").write_text("\n".join(lines[: clients // 2]) + "\n")
    (parts / "0001-b.jsonl").write_text("\n".join(lines[clients // 2 :]) + "\n")
    pd.DataFrame(outcomes, columns=["unit", "time", "match", "request"]).to_csv(folder / "outcomes.csv", index=False)
    until = (start + timedelta(days=25, hours=7)).isoformat()
    return ["--exposures", folder / "exposures", "--outcomes", folder / "outcomes.csv", "--until", until]


def main(folder: Path) -> None:
    """All three of an experiment that begins in an hour, to look at its days to come by hand.

    `options` has those of `mlops run experiment`.
    """
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps({**DEFINITION, "start": start.isoformat()}, indent=1))
    (folder / "options").write_text(" ".join(map(str, write_logs(folder, 0.12, start))) + "\n")
    print((folder / "options").read_text(), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
