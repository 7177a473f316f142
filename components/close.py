"""Runs whatever happened before it: a run that was cut off is marked FAILED in MLflow."""

from kfp import dsl

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def close(job_id: str, status: dsl.PipelineTaskFinalStatus):
    """Marks the MLflow run FAILED where the pipeline failed and no step could say so itself (out of memory, evicted).

    Args:
        job_id: identifies this execution.
        status: how the pipeline ended.
    """
    # COMPLETE is KFP's word in a cluster, SUCCEEDED kfp.local's; a retrain that doesn't promote by itself says RUNNING
    # there, as does one that was killed: only runs that nobody has closed are marked
    if status.state not in ("SUCCEEDED", "COMPLETE"):
        from matchmaking.steps import step

        with step("close", ""):
            from matchmaking.tracking import fail_job

            reason = status.error_message or "a step ended without telling why"
            if fail_job(job_id, reason):
                from matchmaking import notify

                notify.send("failed", "A pipeline run failed", reason)
