"""What is kept as JSON: the audit trail, the journal of a change, a package's manifest and evidence, a run's summary.

Each record says in `format` how it was written (none: 1). A newer format is refused in one line; fields that are not
known here, which a newer version of the same format may add, are kept as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from matchmaking.errors import RefusedError

FORMAT = 1
SHORT = 12

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# by name of the production file
Files = dict[Annotated[str, Field(pattern=r"^(encoder\.pkl|scaler\.pkl|lawyer_match_model\.h5)$")], Sha256]
Action = Literal["promote", "rollback", "abandoned", "restart failed"]
# a name below the backups and no way out of there: what a journal names is deleted when its change is undone
Backup = Annotated[str, Field(pattern=r"^\.mlops/backups/\w[\w.-]*$")]


class RecordError(RefusedError):
    """A record can't be read: it is damaged, or no such record."""


class NewerError(RecordError):
    """A record was written by a version that is newer than this one."""


class Record(BaseModel):
    """What all records have in common; `extra` is allowed for what a newer version adds."""

    model_config = ConfigDict(frozen=True, extra="allow", validate_by_name=True, validate_by_alias=True)
    format: int = Field(
        default=FORMAT,
        ge=1,
        le=FORMAT,
        description="1; fields may be added without another number",
    )

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return self.model_dump(mode="json", by_alias=True)

    def as_json(self, indent: int | None = None) -> str:
        """The record as JSON; on one line without `indent`."""
        return self.model_dump_json(by_alias=True, indent=indent)


class State(BaseModel):
    """What production holds at one time.

    Attributes:
        sha256: by file name; empty for no model.
        version: the package's name; None for files that no promotion of ours wrote.
        registry_version: its number in the model registry, where it has one.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    sha256: Files = {}
    version: str | None = None
    registry_version: str | None = None

    @property
    def model(self) -> str | None:
        """The model file's sha256."""
        return self.sha256.get("lawyer_match_model.h5")

    def __str__(self) -> str:
        if self.model is None:
            return "no model"
        number = f", version {self.registry_version}" if self.registry_version else ""
        return f"{self.version or 'a model from elsewhere'} (sha256 {self.model[:SHORT]}{number})"


class Entry(Record):
    """A line of the audit trail.

    Attributes:
        id: of the change; a restart that failed has one of its own.
        time: UTC, as in 20260131T235959Z.
        action: what was done.
        who: a user and a host, or a pipeline run.
        why: the verdict's reasons, or what the person gave.
        overridden: the objections that `--force` passed over.
        before, after: what production held and holds; `from` and `to` in JSON.
        backup: the folder with what was replaced, in the production folder; None where nothing was.
        production: where, without credentials.
        abandoned: of a change that was cut off and undone, what it would have been.
    """

    id: str
    time: str
    action: Action
    who: str = ""
    why: str = ""
    overridden: list[str] = []
    before: State = Field(validation_alias="from", serialization_alias="from")
    after: State = Field(validation_alias="to", serialization_alias="to")
    backup: Backup | None = None
    production: str = ""
    abandoned: str | None = None


class Journal(Entry):
    """A change that is under way; becomes the line of the audit trail.

    Attributes:
        restarted: all is done but for the alias in the model registry.
    """

    restarted: bool = False

    def entry(self, **changes: Any) -> Entry:
        """The line of the audit trail, with changes."""
        return Entry.model_validate({**self.model_dump(exclude={"restarted"}), **changes})


class Manifest(Record):
    """`manifest.json` of a package: what a candidate is and how it came about.

    Attributes:
        version: the package's name.
        created: UTC.
        verdict: of the decision.
        sha256: of the model's files.
        compared_with: sha256s of the production model that the evidence compares with; empty for none.
        evidence_sha256: of the files with the evidence, by name.
        libraries: versions, by name.
        saved_by_keras: the version that wrote the model file.
        code_version: the commit.
        dataset_version: md5 of the dataset.
        split: how its held-out pairs were chosen (the fields of `split.Facts`); None where that isn't known.
        seed: of the training.
        recipe: everything the training was told.
        operating_point: how the threshold came to be 0.5.
        encoders: where they come from.
        metrics: of production and candidate.
    """

    version: str
    created: str = ""
    verdict: str = ""
    sha256: Files
    compared_with: Files
    evidence_sha256: dict[str, Sha256] = {}
    libraries: dict[str, str] = {}
    saved_by_keras: str | None = None
    code_version: str = ""
    dataset_version: str = ""
    split: dict[str, Any] | None = None
    seed: int | None = None
    recipe: dict[str, Any] = {}
    operating_point: dict[str, Any] = {}
    encoders: str = ""
    metrics: dict[str, Any] = {}


class Primary(BaseModel):
    """The metric that decides, of both models."""

    model_config = ConfigDict(frozen=True, extra="allow")
    metric: str
    production: float | None
    candidate: float


class Verdict(Record):
    """What a promotion needs of `decision.json`."""

    verdict: str
    reasons: list[str]
    primary: Primary
    rows: int
    warnings: list[str] = []


class Check(BaseModel):
    """One check of the serving contract."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str
    passed: bool
    detail: str = ""


class Contract(Record):
    """What a promotion needs of `contract.json`."""

    passed: bool
    checks: list[Check]
    sha256: Files
    compared_with: Files

    @property
    def failed(self) -> list[str]:
        """What failed, each in one sentence."""
        return [f"{check.name}: {check.detail}" for check in self.checks if not check.passed]


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

    pipeline: str = Field(description="retrain, evaluate or monitor")
    run_name: str = Field(description="`<pipeline>_<UTC time>`: the name of its MLflow run")
    run_id: str | None = Field(default=None, description="the MLflow run's; null where none was opened")
    status: Literal["succeeded", "failed"] = Field(
        description="succeeded or failed; a failed run has what its steps had found before"
    )
    code_version: str = Field(
        default="", description="the commit, `-dirty` with local changes, or the package's version"
    )
    dataset_version: str | None = Field(
        default=None, description="md5 of the dataset, as DVC computes it; null where there was none to read"
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
        "empty where it knows), `notes` (sentences); null for monitor",
    )
    metrics: Models = Field(
        default=Models(),
        description="`production` and `candidate`, each null or `rows`, `positives`, the metrics and `confusion`",
    )
    verdict: str | None = Field(default=None, description="promote, hold, reject or bootstrap; null but for retrain")
    reasons: list[str] = Field(default=[], description="of the verdict, one sentence each")
    drift: dict[str, Any] | None = Field(
        default=None,
        description="null but for monitor; `drifted`, `share_drifted`, `self_comparison`, `columns` with each one's "
        "test",
    )
    drifted_columns: list[str] | None = Field(default=None, description="the names alone; null but for monitor")
    training: dict[str, Any] | None = Field(
        default=None,
        description="null but for retrain; `recipe`, `operating_point` (0..1), `logit_shift` (in the output bias)",
    )
    candidate_uri: str | None = Field(default=None, description="where the package is; null where there is none")
    production_sha256: Sha256s = Field(default=Sha256s(), description="`before` and `after`: sha256 by file name")
    promotion: dict[str, Any] | None = Field(
        default=None,
        description="the line of the audit trail, of a run that promoted its candidate by policy; else null",
    )
    error: Failure | None = Field(default=None, description="null, or `step`, `message` and `exit_code`")
    steps: list[dict[str, Any]] = Field(
        default=[], description="`step`, `wall_seconds`, `import_seconds` and `peak_mb` of each"
    )


R = TypeVar("R", bound=Record)


def read_record(kind: type[R], text: str | bytes, source: str) -> R:
    """Reads a record.

    Args:
        kind: which.
        text: the JSON.
        source: what to call it in an error.

    Raises:
        NewerError: its format is newer than this version knows.
        RecordError: it isn't such a record.
    """
    try:
        found = from_json(text)
    except ValueError as error:
        raise RecordError(f"{source} is damaged: {error}") from None
    written = found.get("format", FORMAT) if isinstance(found, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise NewerError(
            f"{source} was written by a newer version of mlops (format {written}; this one reads up to {FORMAT}): "
            "update this one"
        )
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{source} isn't readable: {f'{where}: ' if where else ''}{first['msg']}") from None
