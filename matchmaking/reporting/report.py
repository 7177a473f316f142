"""The end of a run: `summary.json` for programs, reports for people, the MLflow record for both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matchmaking import storage
from matchmaking.base import settings
from matchmaking.base.errors import MlopsError
from matchmaking.base.files import written_whole
from matchmaking.base.redact import redact
from matchmaking.base.settings import code_version
from matchmaking.experiments.announce import keep_reading, tell_ended, tell_verdict
from matchmaking.experiments.page import with_traffic
from matchmaking.experiments.record import PAGE, RESULTS
from matchmaking.experiments.stop import Stop, StopError, stop_again
from matchmaking.live.record import LIVE, WINDOWS, Live, log_points, read_folder
from matchmaking.live.series import beside
from matchmaking.model import production
from matchmaking.reporting.live import live_summary
from matchmaking.reporting.run_metrics import run_params, run_scalars
from matchmaking.reporting.summary import Failure, Models, Sha256s, Summary
from matchmaking.reporting.traffic import traffic

SUMMARY = "summary.json"
# what a summary holds, as docs/reference.md says it
FIELDS = {name: str(field.description) for name, field in Summary.model_fields.items()}


class ProductionChangedError(MlopsError):
    """Production's files are not what they were when the run began."""


def write_reports(
    folder: Path,
    *,
    run_id: str,
    pipeline: str,
    timestamp: str,
    seed: int | None,
    production_uri: str,
    production_before: dict[str, str],
    dataset_version: str,
    candidate_uri: str,
    steps: list[dict[str, Any]],
    data_report: Path | None,
    evaluation: Path | None,
    decision: Path | None,
    candidate: Path | None,
    drift: Path | None,
    drift_page: Path | None,
    page: Path,
    short: Path,
    live: Path | None = None,
    experiment: Path | None = None,
) -> dict[str, Any]:
    """Writes everything a run leaves behind into one folder, and records it in MLflow.

    Args:
        folder: becomes the folder: `summary.json`, `report.html`, `report.txt`, `plots/`, and the JSON files of the
            steps.
        run_id, pipeline, timestamp, seed: the run.
        production_uri: production, read once more for its hashes.
        production_before: its hashes when the run began.
        dataset_version: md5 of the dataset.
        candidate_uri: the package; empty for none.
        steps: what the steps before this one cost.
        data_report, evaluation, decision, drift: JSON files of the steps that ran; None of those that didn't.
        candidate: the candidate's bundle.
        drift_page: Evidently's report.
        page, short: files for the HTML and the Markdown that KFP shows.
        live: the folder with the windows of `observe`.
        experiment: the folder with what an experiment says, and its page.

    Returns:
        The summary.

    Raises:
        ProductionChangedError: production's files changed while the run went on.
        StopError: a challenger does harm, and its traffic couldn't be ended; all the rest is done.
        TrackingError: MLflow cannot be reached.
    """
    from matchmaking import tracking
    from matchmaking.model.train import TRAINING_RECORD
    from matchmaking.release.package import promotable
    from matchmaking.reporting import html as as_html
    from matchmaking.reporting import markdown as as_markdown
    from matchmaking.reporting import plots
    from matchmaking.reporting import text as as_text
    from matchmaking.tracking.step import own_cost

    folder.mkdir(parents=True, exist_ok=True)
    found = {
        name: json.loads(path.read_text()) if path else None
        for name, path in (
            ("data", data_report),
            ("evaluation", evaluation),
            ("decision", decision),
            ("drift", drift),
        )
    }
    reading = json.loads((experiment / RESULTS).read_text()) if experiment else {}
    definition, stops = "", list[Stop]()
    if experiment:
        # first of all: what does harm is stopped, whatever goes wrong with the rest
        definition, stop = keep_reading(experiment, timestamp) if reading["experiment"] else ("", None)
        stops = [*([stop] if stop else []), *stop_again(but=[definition])]
        reading |= traffic(reading["experiment"], stops)
    unstopped = [each for each in stops if each.state == "failed"]
    found["experiment"] = reading or None
    training = json.loads((candidate / TRAINING_RECORD).read_text()) if candidate else None
    after = storage.hash_bundle(production_uri, production.FILES) if production_uri else {}
    if after != production_before:
        raise ProductionChangedError(
            f"{redact(production_uri)} changed while the run went on: its results describe a model that isn't served "
            "any more; run it again"
        )
    windows, record = None, None
    if live:
        record, windows = read_folder(live)
        # before it is asked whose series this is: a run without a point hardly counts
        log_points(run_id, windows)
        found["live"] = live_summary(record, windows, beside(run_id, datetime.now(UTC)))
    result = summarise(
        found,
        training,
        pipeline=pipeline,
        run_name=f"{pipeline}_{timestamp}",
        run_id=run_id,
        status="succeeded",
        dataset_version=dataset_version,
        seed=seed,
        candidate_uri=candidate_uri or None,
        production_sha256=Sha256s(before=production_before, after=after),
        steps=steps,
    )
    summary = result.as_dict()
    history = training["history"] if training else None
    drawn = plots.save_plots(found["evaluation"] or {}, folder / "plots", history) if evaluation else []
    if drift_page:
        shutil.copyfile(drift_page, folder / "drift.html")
    if live and windows is not None:
        drawn += plots.save_live(windows, folder / "plots")
        for name in (LIVE, WINDOWS):
            shutil.copyfile(live / name, folder / name)
    for name, content in found.items():
        if content is not None and name != "live":
            (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    if experiment and reading["experiment"]:
        html = (experiment / PAGE).read_text()
        if stops:
            html = with_traffic(html, reading["stop"], served=bool(reading["served"]))
    else:
        html = as_html.html_report(summary, found["evaluation"], _explained(found["decision"]), drawn)
    (folder / "report.html").write_text(html)
    (folder / "report.txt").write_text(as_text.text_report(summary, found["evaluation"]))
    page.write_text(html)
    short.write_text(as_markdown.markdown_report(summary))
    tracking.finish_run(
        run_id,
        params=run_params(summary, found["decision"]),
        metrics=run_scalars(summary, found["decision"]),
        history=history,
        tags={
            "verdict": summary["verdict"] or "",
            "candidate_uri": redact(candidate_uri),
            "code_version": code_version(),
            "dataset_version": dataset_version,
        },
        artifacts=folder,
        # the promotion that follows ends the run otherwise, and may fail; so does who is to stop a challenger
        close=not unstopped
        and not (experiment and settings.experiment_stop_outside())
        and (not found["decision"] or promotable(found["decision"]) != "automatic"),
    )
    result = result.model_copy(update={"steps": [*steps, own_cost("report")]})
    write_summary(folder, result)
    summary = result.as_dict()
    _tell(summary, found["decision"])
    if definition:
        tell_verdict(definition, reading, tracking.links(run_id), run_id)
    if experiment:
        # of those that ended where nobody heard of it
        tell_ended(tracking.links(run_id), run_id)
    if unstopped:
        # a run that ends well is looked at by nobody
        raise StopError(
            "; ".join(f"{each.experiment}: {each.said}" for each in unstopped),
            told=all(each.told for each in unstopped),
        )
    _look(summary, record)
    if live:
        _show_dashboard(page, production_uri)
    return summary


def _show_dashboard(page: Path, production_uri: str) -> None:
    """Puts the dashboard in the place of the report that Kubeflow Pipelines shows; the run's own is with MLflow.

    By now the run has ended, and what it found is in the dashboard; where that can't be made, the report stays.
    """
    from matchmaking.base.escape import say
    from matchmaking.reporting.dashboard import records
    from matchmaking.reporting.dashboard.page import dashboard_page

    try:
        page.write_text(dashboard_page(records.read(production_uri)), encoding="utf-8")
    except Exception as error:
        # whatever it is: the run has done its work, and is closed
        said = str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}"
        say(f"the dashboard could not be made: {redact(said)}")


# of the training record, what the summary has
_TRAINING = ("recipe", "operating_point", "logit_shift", "tree_weight", "sweep")


def summarise(found: Mapping[str, Any], training: Mapping[str, Any] | None, **run: Any) -> Summary:
    """The summary of a run, from what its steps have written; of a failed run some of that is missing.

    Args:
        found: by name (data, evaluation, decision, drift), a step's JSON or None.
        training: the candidate's training record.
        run: the other fields of `records.Summary`.
    """
    scores, decision, drift = (found.get(name) or {} for name in ("evaluation", "decision", "drift"))
    return Summary(
        code_version=code_version(),
        data=found.get("data"),
        split=scores.get("split"),
        metrics=Models(production=_flat(scores.get("production")), candidate=_flat(scores.get("candidate"))),
        verdict=decision.get("verdict"),
        reasons=decision.get("reasons", []),
        drift=drift or None,
        live=found.get("live"),
        experiment=found.get("experiment"),
        drifted_columns=drift.get("drifted_columns"),
        training={key: training[key] for key in _TRAINING if key in training} if training else None,
        **run,
    )


def write_summary(folder: Path, summary: Summary) -> None:
    """Writes `summary.json`."""
    _write(folder / SUMMARY, summary.as_json(indent=1) + "\n")


def write_failed(
    folder: Path,
    outputs: Mapping[str, Path],
    *,
    known: Mapping[str, Any],
    failure: Failure,
    production_after: dict[str, str] | None,
    steps: list[dict[str, Any]],
) -> Summary:
    """Writes the summary of a run that failed, and the reports where it came that far: what it had found, and why.

    Args:
        folder: the run's folder; `report.html` and `report.txt` in it are written again, with the failure.
        outputs: by name (data, evaluation, decision, drift, training), JSON files that steps have written.
        known: fields of the summary that are known: pipeline, run_name, run_id, seed, ...
        failure: why.
        production_after: what production holds now, by file name; None for not looked.
        steps: what the steps cost.
    """
    from matchmaking.reporting import html as as_html
    from matchmaking.reporting import text as as_text

    found = {name: _json(path) for name, path in outputs.items()}
    before = known.get("production_before")
    promotion = found.pop("promotion", None)
    result = summarise(
        found,
        found.pop("training", None),
        **{name: value for name, value in known.items() if name != "production_before"},
        status="failed",
        production_sha256=Sha256s(before=before, after=production_after),
        promotion=promotion or None,
        error=failure,
        steps=steps,
    )
    if found.get("evaluation") or found.get("drift"):
        drawn = sorted((folder / "plots").glob("*.png"))
        summary = result.as_dict()
        html = as_html.html_report(summary, found.get("evaluation"), _explained(found.get("decision")), drawn)
        _write(folder / "report.html", html)
        _write(folder / "report.txt", as_text.text_report(summary, found.get("evaluation")))
    write_summary(folder, result)
    return result


def _write(path: Path, text: str) -> None:
    """Writes a file beside an older one and puts it in its place: that may be a link to a step's artifact."""
    with written_whole(path) as temporary:
        temporary.write_text(text)


def _json(path: Path) -> Any:
    """The content of a step's file; None for one that the step did not come to write, or not to its end."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _tell(summary: dict[str, Any], decision: dict[str, Any] | None) -> None:
    """Notifies people of what came of a run, where it is news."""
    from matchmaking import tracking
    from matchmaking.reporting import contents
    from matchmaking.tracking import notify

    if not notify.configured():
        return
    lines = [contents.headline(summary), *summary["reasons"], *tracking.links(summary["run_id"])]
    if summary["candidate_uri"]:
        lines.append(f"candidate {summary['candidate_uri']}")
    if summary["verdict"] in ("promote", "bootstrap"):
        notify.send("improved", f"{summary['run_name']}: an improved candidate", "\n".join(lines))
    if decision and not decision.get("contract", {"passed": True})["passed"]:
        notify.send("rejected", f"{summary['run_name']}: production could not serve the candidate", "\n".join(lines))
    elif summary["verdict"] == "reject":
        notify.send("rejected", f"{summary['run_name']}: the candidate is worse than production", "\n".join(lines))


def _look(summary: dict[str, Any], live: Live | None = None) -> None:
    """Raises and clears the alerts that a run says something of, of a pipeline that looks; never fails the run.

    Args:
        summary: the run's.
        live: of observe, what it has found; its alert rule is heard on the installation's series alone.
    """
    if summary["pipeline"] not in ("evaluate", "monitor", "observe", "experiment"):
        return
    from matchmaking import tracking
    from matchmaking.evidence.policy import installed_policy
    from matchmaking.live import alert_log, conditions

    def found() -> list[conditions.Condition]:
        policy = installed_policy()
        link, name = tracking.links(summary["run_id"])[0].removeprefix("MLflow run "), summary["pipeline"]
        said = [conditions.succeeded(name, policy.alerts, link)]
        if live is not None:
            return [*said, *(conditions.watched(live, policy.alerts, link) if summary["live"]["followed"] else [])]
        if name == "experiment":
            return said
        if name == "evaluate":
            return [*said, conditions.degraded(summary, policy, link)]
        return [*said, conditions.drift(summary, policy.alerts, conditions.is_well(datetime.now(UTC)), link)]

    alert_log.try_look(found)


def _explained(decision: dict[str, Any] | None) -> str | None:
    if decision is None:
        return None
    from matchmaking.evidence.explain import explain

    return explain(decision)


def _flat(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """The metrics without the breakdown by slice, which is in evaluation.json."""
    return {key: value for key, value in metrics.items() if key != "slices"} if metrics else None
