"""Step ``image_embeddings``: a vector for every item's picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.artifacts import write_json
from segue.canonical import sha256_of, sha256_of_file
from segue.data.images import NoFile, image_folder, named_images, read_images, resolve
from segue.encoders.image_cache import PICTURES_FILE, Picture, encode_pictures
from segue.encoders.registry import image_encoder
from segue.encoders.settings import EncoderSettings
from segue.errors import ArtifactError, ConfigurationError
from segue.items import Items, ItemVectors
from segue.schema import Catalogue
from segue.steps.runner import StepContext

PICTURES_SCHEMA: dict[str, pl.DataType] = {
    Catalogue.ITEM: pl.String(),
    "path": pl.String(),
    "sha256": pl.String(),
    "reason": pl.String(),  # why the item has no vector; null where it has one
    "width": pl.Int64(),
    "height": pl.Int64(),
    "format": pl.String(),
    "mode": pl.String(),
    "dhash": pl.String(),
}


def _require_stated_content(settings: EncoderSettings) -> None:
    """Parameters must say what a run is made from, and a path says nothing of what lies there."""
    model, stated = Path(settings.image_model), settings.image_onnx.sha256
    if model.suffix != ".onnx" or not model.is_file() or stated == (found := sha256_of_file(model)):
        return
    raise ConfigurationError(
        f"encoders.image_onnx.sha256 must state the content of {model}: it is {found}, "
        + ("and nothing is stated" if stated is None else f"and {stated} is stated")
    )


def run(context: StepContext) -> None:
    """Writes ItemVectors, ``pictures.parquet`` (a row an item, with the reason where it has no vector) and
    ``encoder.json``.

    Vectors are cached by the content of the file under ``state/<dataset>/cache/image``. Where no item has a
    picture file, no encoder is loaded, and the modality is empty: vectors of width 0, nobody present.
    """
    items = Items.load(context.inputs["splits"])
    settings = context.params.encoders
    recorded = read_images(context.inputs["ingest"])
    paths = named_images(items.table, context.params.data)
    if unrecorded := sorted({path for path in paths if path and path not in recorded}):
        raise ArtifactError(f"{unrecorded[0]} is no picture that ingest recorded: run the step ingest again")
    looked_up = [recorded[path] if path else (None, NoFile.NOT_NAMED.value) for path in paths]
    keys = [sha256 for sha256, _ in looked_up]
    found: dict[str, Picture] = {}
    vectors = np.zeros((len(items), 0), dtype=np.float32)
    identity: dict[str, object] = {"name": "none", "weights_sha256": "none", "dimensions": 0}
    if any(keys):
        _require_stated_content(settings)
        encoder = image_encoder(settings.image_model, settings)
        folder = image_folder(context.params.data, context.workspace)
        files: dict[str, Path] = {}
        for path, key in zip(paths, keys, strict=True):
            if path and key:
                file = resolve(path, folder)
                assert isinstance(file, Path)  # what ingest could hash can be named
                files[key] = file
        decided = [
            encoder.weights_sha256,
            settings.image_min_side,
            settings.image_min_deviation,
            settings.image_max_pixels,
        ]
        cache = context.workspace.state(context.dataset) / "cache" / "image" / sha256_of(decided)
        found, opened = encode_pictures(encoder, files, cache, settings, context.progress)
        vectors = np.zeros((len(items), encoder.dimensions), dtype=np.float32)
        identity = {
            "name": encoder.name,
            "weights_sha256": encoder.weights_sha256,
            "dimensions": encoder.dimensions,
        }
        context.record["images_opened"] = opened
    rows: list[tuple[Any, ...]] = []
    present = np.zeros(len(items), dtype=bool)
    for row, (item, path, (key, reason)) in enumerate(zip(items.ids, paths, looked_up, strict=True)):
        if key is None:
            rows.append((item, path, None, reason, None, None, None, None, ""))
            continue
        picture = found[key]
        facts = picture.facts
        rows.append(
            (item, path, key, facts.reason, facts.width, facts.height, facts.format, facts.mode, facts.dhash)
        )
        if picture.vector is not None:
            vectors[row], present[row] = picture.vector, True
    table = pl.DataFrame(rows, schema=PICTURES_SCHEMA, orient="row")
    ItemVectors(vectors=vectors, present=present, item_ids=items.ids).save(context.output)
    table.write_parquet(context.output / PICTURES_FILE)
    write_json(context.output / "encoder.json", {"kind": "image", **identity})
    reasons = Counter(table["reason"].drop_nulls())
    context.metrics["items_with_image"] = int(present.sum())
    context.metrics.update({f"image_{reason}": count for reason, count in sorted(reasons.items())})
    if any(keys):
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "nobody without"
        context.progress(f"{int(present.sum())} of {len(items)} items have a picture ({told})")
    else:
        context.progress("no item has a picture: the modality is empty")
