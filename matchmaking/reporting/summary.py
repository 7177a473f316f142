"""A run's `summary.json`: one model, whether the run succeeded or failed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from matchmaking.base.records import Record


class Models(BaseModel):
    """The metrics of both models; None for one that was not evaluated."""

    model_config = ConfigDict(frozen=True, extra="allow")
    production: dict[str, Any] | None = None
    candidate: dict[str, Any] | None = None


class Sha256s(BaseModel):
    """Production's files when a run began and when it ended, by name; None where nobody looked."""

    model_config = ConfigDict(frozen=True, extra="allow")
    before: dict[str, str] | None = None
    after: dict[str, str] | None = None


class Failure(BaseModel):
    """Why a run failed."""

    model_config = ConfigDict(frozen=True, extra="allow")
    step: str
    message: str
    exit_code: int = 1


class Summary(Record):
    """`summary.json`: what came of a run, whole or failed; the descriptions are those of docs/reference.md."""

    pipeline: str = Field(
        description="retrain, sweep, evaluate, evaluate-parts, monitor, monitor-parts, observe or experiment"
    )
    run_name: str = Field(description="`<pipeline>_<UTC time>`: the name of its MLflow run")
    run_id: str | None = Field(default=None, description="the MLflow run's; null where none was opened")
    status: Literal["succeeded", "failed"] = Field(
        description="succeeded or failed; a failed run has what its steps had found before"
    )
    code_version: str = Field(
        default="", description="the commit, `-dirty` with local changes, or the package's version"
    )
    dataset_version: str | None = Field(
        default=None,
        description="md5 of the dataset, as DVC computes it, or of its parts' md5s; null where there was none to read",
    )
    seed: int | None = Field(default=None, description="of training and bootstrap")
    data: dict[str, Any] | None = Field(
        default=None,
        description="`rows`, `positives`, `extra_columns`, `unseen` (categories by column, with counts), "
        "`duplicates`, `warnings` (sentences)",
    )
    split: dict[str, Any] | None = Field(
        default=None,
        description="how the held-out pairs were chosen: `asked`, `rule`, `train_rows`, `test_rows`, `left_out` (as "
        "they may have trained production), `assumed` (md5 of the dataset that production was taken to be trained on; "
        "empty where it knows), `notes` (sentences); null for monitor and monitor-parts",
    )
    metrics: Models = Field(
        default=Models(),
        description="`production` and `candidate`, each null or `rows`, `positives`, the metrics and `confusion`",
    )
    verdict: str | None = Field(
        default=None, description="promote, hold, reject or bootstrap; null but for retrain and sweep"
    )
    reasons: list[str] = Field(default=[], description="of the verdict, one sentence each")
    drift: dict[str, Any] | None = Field(
        default=None,
        description="null but for monitor and monitor-parts; `drifted`, `share_drifted`, `self_comparison`, `columns` "
        "with each one's test",
    )
    live: dict[str, Any] | None = Field(
        default=None,
        description="null but for observe; `period`, `now`, `delay`, `windows` (how many), `recent` (the newest, each "
        "with its `metrics`: `value`, `low`, `high`, `estimate` with its own, and whether it counts as `measured`), "
        "`past` (estimates against what was measured later), `findings`, `notes`, `firing` (by the alert rule) and "
        "`followed` (whether it is the series of alerts and the dashboard)",
    )
    experiment: dict[str, Any] | None = Field(
        default=None,
        description="null but for experiment; `experiment` (its name; null where none is under way), `headline`, and "
        "else what `mlops experiment status --json` prints, `results` in words, `log` (what was odd, with counts) "
        "and, where a challenger does harm, `stop` (what became of its traffic, also of an earlier experiment's) and "
        "`served` (the experiments whose harmful challenger has its traffic, as far as is known)",
    )
    drifted_columns: list[str] | None = Field(
        default=None, description="the names alone; null but for monitor and monitor-parts"
    )
    training: dict[str, Any] | None = Field(
        default=None,
        description="null but for retrain and sweep; `recipe`, `operating_point` (0..1), `logit_shift` (what "
        "makes it 0.5), `tree_weight` (0..1, of the boosted trees in the logit); of sweep `sweep`, how the recipe was "
        "chosen: `chosen` (a trial's number), `why`, `trials`",
    )
    candidate_uri: str | None = Field(default=None, description="where the package is; null for none or a rejected one")
    production_sha256: Sha256s = Field(default=Sha256s(), description="`before` and `after`: sha256 by file name")
    promotion: dict[str, Any] | None = Field(
        default=None,
        description="the line of the audit trail, of a run that promoted its candidate by policy; else null",
    )
    error: Failure | None = Field(default=None, description="null, or `step`, `message` and `exit_code`")
    steps: list[dict[str, Any]] = Field(
        default=[], description="`step`, `wall_seconds`, `import_seconds` and `peak_mb` of each"
    )
