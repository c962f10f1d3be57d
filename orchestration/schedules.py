"""The nightly day-two loop. Stopped until somebody switches it on in the page."""

from __future__ import annotations

import dagster as dg

from orchestration.datasets import identifier
from orchestration.jobs import day_two_job_name


def schedules_for(dataset: str) -> list[dg.ScheduleDefinition]:
    return [
        dg.ScheduleDefinition(
            name=f"{identifier(dataset)}__nightly",
            job_name=day_two_job_name(dataset),
            cron_schedule="0 3 * * *",
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
    ]
