"""Two sensors a dataset: files dropped into its inbox start the day-two loop; what DVC finished is shown here too."""

import dagster as dg

from orchestration.datasets import identifier
from orchestration.events import report_finished
from orchestration.jobs import day_two_job_name
from segue.canonical import sha256_of
from segue.data.inbox import inbox_files
from segue.workspace import Workspace


def sensors_for(dataset: str) -> list[dg.SensorDefinition]:
    return [_inbox(dataset), _dvc_runs(dataset)]


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
