"""Why a run failed, for a terminal."""

from collections.abc import Iterable, Iterator

from dagster import DagsterEvent, DagsterExecutionInterruptedError
from dagster._utils.error import SerializableErrorInfo


def failures(events: Iterable[DagsterEvent]) -> Iterator[str]:
    """Every step that failed: in its own words where the user can mend it (a :class:`dagster.Failure`, which is what a
    :class:`segue.errors.SegueError` becomes), with its stack where not.

    Where the run failed before a step could, its error. Steps that were left out because of another are not told."""
    failed = [event for event in events if event.is_step_failure or event.is_run_failure]
    steps = [event for event in failed if event.is_step_failure]
    for event in steps:
        data = event.step_failure_data
        if data.error is not None and data.error.cls_name == DagsterExecutionInterruptedError.__name__:
            yield f"{event.step_key} was stopped: the same command goes on from what is finished"
            continue
        told = data.user_failure_data.description if data.user_failure_data else None
        yield f"error in {event.step_key}: {told or _told(data.error)}"
    if not steps:
        for event in failed:
            error = event.job_failure_data.error if event.event_specific_data else None
            yield f"error in the run: {event.message if error is None else _told(error)}"


def _told(error: SerializableErrorInfo | None) -> str:
    return "no reason was recorded" if error is None else error.to_string()
