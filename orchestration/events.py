"""Telling Dagster of steps that it did not run as assets: the day-two loop's, and those of ``dvc repro``."""

from __future__ import annotations

import dagster as dg

from assets.factory import asset_key
from assets.metadata import outcome_metadata
from segue.artifacts import read_manifest
from segue.params import load_params
from segue.steps.registry import STEPS, Step, get
from segue.steps.runner import Outcome, code_version, is_up_to_date, read_record
from segue.workspace import Workspace

DATA_VERSION = "dagster/data_version"


def materialization(workspace: Workspace, dataset: str, outcome: Outcome) -> dg.AssetMaterialization:
    """The event for a finished step, with the versions by which Dagster tells fresh from stale.

    The tags are those of https://docs.dagster.io/guides/build/assets/asset-versioning-and-caching; without an input's
    version and pointer the page would call the asset stale.
    """
    assert outcome.manifest is not None
    step = get(outcome.step)
    return dg.AssetMaterialization(
        asset_key=asset_key(dataset, step.name),
        metadata=outcome_metadata(workspace, outcome, outcome.record),
        tags=_version_tags(workspace, dataset, step, outcome.manifest.content_sha256),
    )


def report_finished(instance: dg.DagsterInstance, workspace: Workspace, dataset: str) -> list[str]:
    """Report, as runless events, every up-to-date artifact that Dagster does not know in this version."""
    params = load_params(workspace, dataset)
    reported = []
    for step in STEPS:
        if not is_up_to_date(workspace, dataset, step, params):
            continue
        manifest = read_manifest(workspace.step(dataset, step.name))
        if _known_version(instance, dataset, step) == manifest.content_sha256:
            continue
        record = read_record(workspace, dataset, step.name)
        outcome = Outcome(step.name, "up_to_date", float(record.get("seconds", 0.0)), manifest, record)
        instance.report_runless_asset_event(materialization(workspace, dataset, outcome))
        reported.append(step.name)
    return reported


def _known_version(instance: dg.DagsterInstance, dataset: str, step: Step) -> str | None:
    event = instance.get_latest_materialization_event(asset_key(dataset, step.name))
    if event is None or event.asset_materialization is None or event.asset_materialization.tags is None:
        return None
    return event.asset_materialization.tags.get(DATA_VERSION)


def _version_tags(workspace: Workspace, dataset: str, step: Step, data_version: str) -> dict[str, str]:
    tags = {
        DATA_VERSION: data_version,
        "dagster/code_version": code_version((*step.code, f"steps.{step.name}"))[:16],
    }
    for name in step.inputs:
        key = asset_key(dataset, name).to_user_string()
        tags[f"dagster/input_data_version/{key}"] = read_manifest(
            workspace.step(dataset, name)
        ).content_sha256
        tags[f"dagster/input_event_pointer/{key}"] = "NULL"
    return tags
