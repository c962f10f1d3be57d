"""Four sensors a dataset. Files dropped into its inbox start the day-two loop; what DVC finished is shown here too; the running
experiment is evaluated when enough has been shown since; drift asks for a retrain."""

import json
import time

import dagster as dg

from orchestration.datasets import identifier
from orchestration.events import report_finished
from orchestration.jobs import day_two_job_name, evaluation_job_name, retrain_job_name
from segue.canonical import sha256_of
from segue.data.inbox import inbox_files
from segue.steps.monitoring import drift_found, traffic
from segue.workspace import Workspace


def sensors_for(dataset: str) -> list[dg.SensorDefinition]:
    return [_inbox(dataset), _dvc_runs(dataset), _experiment(dataset), _drift(dataset)]


def _inbox(dataset: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{identifier(dataset)}__inbox",
        job_name=day_two_job_name(dataset),
        minimum_interval_seconds=15,
        description=f"Looks at inbox/{dataset}/ for events*.parquet|csv and items*.parquet|csv.",
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def look(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        del context
        files = inbox_files(Workspace.find(), dataset)
        if not files:
            return dg.SkipReason(f"inbox/{dataset}/ is empty")
        # The same files in the same state ask once: a run that failed on them is not started again and again.
        state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return dg.RunRequest(
            run_key=sha256_of(state), tags={"segue/inbox": ", ".join(file.name for file in files)}
        )

    return look


def _dvc_runs(dataset: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{identifier(dataset)}__dvc_runs",
        job_name=day_two_job_name(dataset),
        minimum_interval_seconds=30,
        description="Reports artifacts that `dvc repro` or `segue step` finished, so that the page shows them fresh.",
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        reported = report_finished(context.instance, Workspace.find(), dataset)
        return dg.SkipReason(f"reported {', '.join(reported)}" if reported else "nothing new")

    return look


GROWTH = 0.02  # of all that was shown: a confidence sequence hardly moves for less
LONGEST_SECONDS = 3600.0  # but anything new is looked at after an hour


def _experiment(dataset: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{identifier(dataset)}__experiment",
        job_name=evaluation_job_name(dataset),
        minimum_interval_seconds=30,
        description="Evaluates the running experiment when enough was shown since, or an hour after anything was. "
        "Guardrails do not wait for it: `segue watch` guards them.",
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def look(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        found = traffic(Workspace.find(), dataset)
        if found is None:
            return dg.SkipReason("no experiment runs, or nobody was shown anything yet")
        before = json.loads(context.cursor) if context.cursor else {"entry": None, "rows": 0, "at": 0.0}
        if before["entry"] != found.entry or found.rows < before["rows"]:  # everything was pruned in between
            before = {"entry": found.entry, "rows": 0, "at": 0.0}
        new, waited = found.rows - before["rows"], time.time() - before["at"]
        if new <= 0 or (new < GROWTH * before["rows"] and waited < LONGEST_SECONDS):
            return dg.SkipReason(f"{max(new, 0)} new exposures and feedback since {before['rows']}")
        context.update_cursor(json.dumps({"entry": found.entry, "rows": found.rows, "at": time.time()}))
        return dg.RunRequest(
            run_key=f"{found.entry}-{found.rows}", tags={"segue/experiment": str(found.entry)}
        )

    return look


def _drift(dataset: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{identifier(dataset)}__drift",
        job_name=retrain_job_name(dataset),
        minimum_interval_seconds=300,
        description="Asks for new weights where the drift report says retrain (data, embeddings, codebook), or where what "
        "serves earns surely less than when it was new.",
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def look(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        del context
        found = drift_found(Workspace.find(), dataset)
        if found.key is None:
            return dg.SkipReason(found.told)
        return dg.RunRequest(run_key=found.key, tags={"segue/drift": found.told})

    return look
