"""What a release keeps as JSON: the audit trail, the journal of a change, a package's manifest and evidence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from matchmaking.base.records import SHORT, Files, Record, Sha256
from matchmaking.experiments.win import Win

Action = Literal["promote", "rollback", "abandoned", "restart failed"]
# a name below the backups and no way out of there: what a journal names is deleted when its change is undone
Backup = Annotated[str, Field(pattern=r"^\.mlops/backups/\w[\w.-]*$")]


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
        experiment: the won experiment that the promotion rests on; None for none.
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
    experiment: Win | None = None
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
