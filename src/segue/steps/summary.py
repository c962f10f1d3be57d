"""Step ``summary``: ``summary.json``, and the pages that go with it."""

from __future__ import annotations

from segue.reporting.evaluation_page import write_evaluation_page
from segue.reporting.index_page import write_index_page
from segue.reporting.semantic_ids_page import write_semantic_ids_page
from segue.reporting.summary import SUMMARY_FILE, gather, write_summary
from segue.steps.migration_report import report_migration
from segue.steps.registry import STEPS
from segue.steps.runner import StepContext, read_record


def run(context: StepContext) -> None:
    """Says "no change" where ``summary.json`` already holds what was found; pages are brought up to date."""
    title = context.params.data.title or context.dataset
    gathered = gather(
        context.inputs,
        deployments=context.workspace.state(context.dataset) / "deployment",
        records={step.name: read_record(context.workspace, context.dataset, step.name) for step in STEPS},
    )
    changed = write_summary(context.reports, gathered.summary)
    write_evaluation_page(
        context.reports,
        context.inputs["offline_evaluation"],
        dataset=context.dataset,
        title=title,
        policy=context.params.migration.pilot,
        test_reads=gathered.test_reads,
    )
    write_semantic_ids_page(
        context.reports,
        context.inputs["semantic_id_report"],
        dataset=context.dataset,
        params=context.params,
        workspace=context.workspace,
    )
    migration = report_migration(context.workspace, context.dataset, context.params)
    page = write_index_page(context.reports, gathered, dataset=context.dataset, title=title)
    context.record["page"] = str(page)
    context.record["plots"] = [str(migration), str(page)]
    context.message = f"wrote {context.reports / SUMMARY_FILE} and {page.name}" if changed else "no change"
    context.progress(context.message)
