"""The promotion policy: what a candidate has to show, and the limits past which a run is a failure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from matchmaking.base.errors import InputError
from matchmaking.evidence.metrics import LOWER_IS_BETTER

# what can be tested: means over rows or pairs of rows, of which the bootstrap knows the sampling error
Metric = Literal[
    "average_precision", "roc_auc", "f1", "accuracy", "precision", "recall", "brier", "log_loss", "calibration"
]
# what is only compared with a number
Measured = Literal["average_precision", "roc_auc", "f1", "accuracy", "precision", "recall", "brier", "log_loss", "ece"]
SliceColumn = Literal["location", "preferred_language", "case_type"]
# what the alert rule can watch: `matchmaking.live.sequential.METRICS`
Watched = Literal["average_precision", "roc_auc", "accuracy", "precision", "recall", "brier", "log_loss"]
AlertKind = Literal["performance", "degraded", "drift", "failed", "late"]
# from the least severe on
Severity = Literal["info", "warning", "critical"]

DEFAULT_POLICY = Path(__file__).with_name("policy.yaml")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, le=1)]


class Primary(_Section):
    """The metric that must improve."""

    metric: Metric
    min_effect: Fraction
    confidence: Annotated[float, Field(ge=0.5, lt=1)]


class Bootstrap(_Section):
    """How the sampling error is estimated."""

    resamples: Annotated[int, Field(ge=1000, le=100_000)]
    min_positives: Annotated[int, Field(ge=2)]


class Slices(_Section):
    """Where recall is looked at again, value by value."""

    columns: Annotated[tuple[SliceColumn, ...], Field(strict=False)]
    min_positives: Annotated[int, Field(ge=1)]
    margin: Fraction


class Guardrails(_Section):
    """What must not get worse, and by how much it may."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    margins: dict[Metric, Fraction]
    slices: Slices


class Data(_Section):
    """What a dataset may be like for evidence from it to count."""

    max_unknown_share: Fraction


class Limits(_Section):
    """Past what a run of monitor or evaluate is a failure, where that is asked for."""

    drifted_share: Fraction
    target_or_scores: bool
    production: dict[Measured, Fraction]


def _clock(given: Any) -> Any:
    """A time of day as text: YAML takes 22:00 without quotation marks for the number of its minutes."""
    return f"{given // 60:02d}:{given % 60:02d}" if type(given) is int and 0 <= given < 24 * 60 else given


def _known_zone(given: str) -> str:
    try:
        ZoneInfo(given)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; give one as in Asia/Kolkata") from None
    return given


Clock = Annotated[str, BeforeValidator(_clock), Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Hours = Annotated[float, Field(gt=0, le=24 * 366)]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class QuietHours(_Section):
    """When only what is critical is told; none where `start` is `end`."""

    start: Clock
    end: Clock
    time_zone: Annotated[str, AfterValidator(_known_zone)]

    @property
    def first(self) -> int:
        """`start` in minutes of the day."""
        return int(self.start[:2]) * 60 + int(self.start[3:])

    @property
    def last(self) -> int:
        """`end` in minutes of the day."""
        return int(self.end[:2]) * 60 + int(self.end[3:])


class Performance(_Section):
    """The sequential rule on measured performance."""

    tolerance: dict[Watched, Fraction | None]
    false_alarms_a_year: Annotated[float, Field(gt=0, le=52)]


class Alerts(_Section):
    """What is told of production and of the pipelines, to whom and when."""

    severity: dict[AlertKind, Severity]
    repeat_hours: dict[Severity, Hours]
    channels: dict[Severity, Annotated[tuple[Tag, ...], Field(strict=False)]]
    quiet_hours: QuietHours
    performance: Performance
    hold_drift: bool
    late_hours: Hours


def past_limits(found: Mapping[str, Any], limits: Limits) -> list[str]:
    """Which of a model's metrics, as `metrics.evaluate` gives them, are worse than `limits.production`, in words.

    A metric that could not be computed counts as worse: a limit that can't be checked isn't kept.
    """
    past = []
    for name, limit in limits.production.items():
        value, lower = found.get(name), name in LOWER_IS_BETTER
        if value is None or (value > limit if lower else value < limit):
            shown = "unknown" if value is None else f"{value:.4f}"
            past.append(f"{name} is {shown}, limit {'at most' if lower else 'at least'} {limit:g}")
    return past


class Policy(_Section):
    """A promotion policy; immutable. `policy.yaml` documents every key."""

    primary: Primary
    bootstrap: Bootstrap
    guardrails: Guardrails
    data: Data
    auto_promote: bool
    limits: Limits
    alerts: Alerts


def installed_policy() -> Policy:
    """The policy that reports and alerts go by: the default, with what MLOPS_POLICY (YAML) says laid over it.

    Raises:
        InputError: as for `load_policy`.
    """
    return load_policy(text=os.environ.get("MLOPS_POLICY", ""), called="MLOPS_POLICY")


def load_policy(path: Path | None = None, text: str = "", called: str = "the policy given with the run") -> Policy:
    """The default policy, or the default with what the YAML file at `path`, or the YAML `text`, sets laid over it.

    Args:
        path: of the file.
        text: in its place.
        called: the text, in messages.

    Raises:
        InputError: the file can't be read, is not YAML, has an unknown key or a value out of range, or asks for levels
            that its number of resamples cannot tell from zero.
    """
    values = _read_yaml(DEFAULT_POLICY)
    name = str(path or (called if text else DEFAULT_POLICY))
    if path is not None:
        values = _overlay(values, _read_yaml(path))
    elif text:
        values = _overlay(values, _parse_yaml(text, name))
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(dict(e)) for e in error.errors())
        raise InputError(f"{name}: {problems}") from None
    # the smallest tails that are read off the resamples: the primary interval's, and the harm tests' after Holm
    # (half of alpha for the overall ones, and calibration looks on both sides)
    tails = {
        f"primary.confidence {policy.primary.confidence:g}": (1 - policy.primary.confidence) / 2,
        f"guardrails.alpha {policy.guardrails.alpha:g}": policy.guardrails.alpha
        / 4
        / (len(policy.guardrails.margins) or 1),
    }
    for level, tail in tails.items():
        # the interval of a level of 0.995 is given by 1 - 0.995 = 0.0050000000000000044
        if policy.bootstrap.resamples < (needed := int(np.ceil(1 / tail - 1e-6))):
            said = (
                f"bootstrap.resamples: {policy.bootstrap.resamples} are too few for {level}; it takes {needed} or more"
            )
            raise InputError(f"{name}: {said}")
    return policy


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return _parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the policy can't be read: {getattr(error, 'strerror', None) or error}") from None


def _parse_yaml(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise InputError(f"{name}: not YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        allowed = ", ".join(Policy.model_fields)
        raise InputError(f"{name}: a policy is a mapping with the keys {allowed}, not a {type(values).__name__}")
    return values


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` over it, mapping by mapping."""
    both = {k for k in top if isinstance(top[k], dict) and isinstance(base.get(k), dict)}
    return {**base, **top, **{k: _overlay(base[k], top[k]) for k in both}}


def _problem(error: dict[str, Any]) -> str:
    """One pydantic error as `key: what is wrong, what is allowed`."""
    loc = [str(part) for part in error["loc"] if part != "[key]"]
    # in the words of YAML, not of Python
    message = error["msg"][0].lower() + error["msg"][1:].replace("tuple", "list").replace("dictionary", "mapping")
    key, message = ".".join(loc), message.partition(" or instance of")[0]
    if error["type"] == "extra_forbidden":
        section: Any = Policy
        for part in loc[:-1]:
            section = section.model_fields[part].annotation
        return f"{key}: unknown key; allowed here: {', '.join(section.model_fields)}"
    value = error["input"]
    if value == "ece" and error["type"] == "literal_error":
        return f"{key}: ECE is reported, not tested, since its bias hides a loss; use log_loss and calibration instead"
    return f"{key}: {message}, not {value!r}" if isinstance(value, str | int | float | list) else f"{key}: {message}"
