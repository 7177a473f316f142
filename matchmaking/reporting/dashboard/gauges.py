"""What Prometheus reads of the dashboard: the numbers of its top, as gauges."""

from __future__ import annotations

from collections import Counter

from matchmaking.reporting.dashboard.records import Records
from matchmaking.reporting.dashboard.reigns import reigns

# of Prometheus' text format; that of OpenMetrics isn't asked for
TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(records: Records, seconds: float) -> bytes:
    """The gauges in Prometheus' text format.

    Args:
        records: what is known.
        seconds: what it took to read them.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, says: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"matchmaking_{name}", says, labels, registry=registry)

    gauge("dashboard_made_timestamp_seconds", "When the records were read.").set(records.now.timestamp())
    gauge("dashboard_read_seconds", "What reading them took.").set(seconds)
    runs = gauge("runs", "Runs that MLflow has, by pipeline and state.", ("pipeline", "status"))
    for (pipeline, status), count in Counter((run.pipeline, run.status) for run in records.runs).items():
        runs.labels(pipeline, status).set(count)
    last = gauge("last_run_timestamp_seconds", "When the newest finished run of a pipeline began.", ("pipeline",))
    for run in records.runs:
        if run.status == "FINISHED":
            last.labels(run.pipeline).set(run.start / 1000)
    firing = gauge("alerts", "Alerts that aren't cleared.", ("name", "severity", "state"))
    for alert in records.alerts:
        if alert.state != "cleared":
            firing.labels(alert.name, alert.severity, alert.state).set(1)
    for run in [run for run in records.of("monitor") if "drifted" in run.metrics][-1:]:
        gauge("drifted", "Whether the data had drifted, in the newest monitor.").set(run.metrics["drifted"])
        gauge("drifted_share", "Share of the features that had.").set(run.metrics.get("share_drifted", 0.0))
    held = gauge("production_holdout", "Production on held-out rows, in the newest evaluate.", ("metric",))
    for run in records.of("evaluate")[-1:]:
        for name, value in run.metrics.items():
            if name.startswith("production_"):
                held.labels(name.removeprefix("production_")).set(value)
    live = gauge("production_live", "Production in the newest window.", ("metric", "kind", "bound"))
    ended = gauge("production_live_window_end_timestamp_seconds", "When that window ended.", ("kind",))
    if records.observed is not None:
        newest = records.observed.live.newest
        for kind, look in (("measured", newest.measured), ("estimated", newest.estimated)):
            if look is None:
                continue
            ended.labels(kind).set(look.end.timestamp())
            for metric, values in look.metrics.items():
                for bound, value in values.items():
                    live.labels(metric, kind, bound).set(value)
    for reign in reigns(records)[-1:]:
        champion = gauge("champion_info", "The model in production.", ("name", "sha256"))
        champion.labels(reign.name, reign.model).set(1)
    return generate_latest(registry)
