"""Step ``validation``: both tables judged; bad rows are set aside with their reason, or stop the run."""

from __future__ import annotations

import shutil
import time

import polars as pl

from segue.artifacts import read_json, write_json
from segue.data.validation import validate
from segue.errors import ArtifactError
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Write interactions.parquet, catalogue.parquet, quarantine.parquet, results.json and source.json.

    Data Docs and validation.json go to the reports also where the run is stopped. Raises DataError naming
    what failed.
    """
    folder = context.inputs["ingest"]
    source = read_json(folder / "source.json")
    if not isinstance(source, dict):
        raise ArtifactError(
            f"{folder / 'source.json'} is no record of a source: run `segue step ingest` again"
        )
    pages = context.reports / "data_docs"
    validated = validate(
        pl.read_parquet(folder / "interactions.parquet"),
        pl.read_parquet(folder / "catalogue.parquet"),
        context.params.validation,
        has_timestamps=source["has_timestamps"],
        has_catalogue=source["has_catalogue"],
        now=int(time.time()),
        pages=pages,
    )
    write_json(context.reports / "validation.json", validated.results)
    validated.raise_for_failures(pages)
    validated.interactions.write_parquet(context.output / "interactions.parquet")
    validated.catalogue.write_parquet(context.output / "catalogue.parquet")
    validated.quarantine.write_parquet(context.output / "quarantine.parquet")
    write_json(context.output / "results.json", validated.results)
    shutil.copyfile(folder / "source.json", context.output / "source.json")
    context.record["pages"] = [str(pages / "index.html")]
    if validated.quarantine.height:
        context.progress(
            f"{validated.quarantine.height} rows were set aside; why stands in "
            f"{context.workspace.step(context.dataset, 'validation') / 'quarantine.parquet'}"
        )
    context.metrics.update(
        expectations=len(validated.findings),
        set_aside=validated.quarantine.height,
        interactions=validated.interactions.height,
        users=validated.results["users"],
        items=validated.results["items"],
    )
