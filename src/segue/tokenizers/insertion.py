"""Semantic IDs by hand: insert items outside the graph, and compare two item maps (``segue tokens …``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.artifacts import read_manifest, replace_folder, temporary_folder
from segue.data.settings import TableSource
from segue.errors import ArtifactError, BindingError, DataError
from segue.items import ItemVectors
from segue.schema import Catalogue
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.registry import Codes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from segue.params import Params
    from segue.workspace import Workspace


def insert_items(
    workspace: Workspace, dataset: str, params: Params, items: Path, out: Path | None = None
) -> dict[str, Any]:
    """Semantic IDs for the items of a CSV or Parquet file under the dataset's present codebook; nothing is
    retrained.

    Nothing in the graph changes (`segue data append` is what adds items for good): the grown map is written
    to ``out`` where that is given. Raises DataError for a file that cannot be read, an item without an id or
    named twice; ArtifactError where the dataset has no item map yet or ``out`` exists; and as
    :func:`insert_vectors` does.
    """
    from segue.data.sources import read_table

    if out is not None and out.exists():
        raise ArtifactError(f"{out} exists: name a new folder")
    steps = {name: workspace.step(dataset, name) for name in ("codebook", "item_map")}
    for folder in steps.values():
        read_manifest(folder, remedy=f"run `segue run --dataset {dataset}` first")
    codebook, item_map = Codebook.load(steps["codebook"]), ItemMap.load(steps["item_map"])
    item_map.require_codebook(codebook)
    source = TableSource(path=str(items.resolve()))
    table = read_table(source, "catalogue", workspace.root)
    ids = table[Catalogue.ITEM].fill_null("")
    if (empty := ids == "").any():
        raise DataError(f"{items}: data row {int(empty.arg_max() or 0) + 1} has no {Catalogue.ITEM}")
    if (again := ids.is_duplicated()).any():
        row = int(again.arg_max() or 0)
        raise DataError(
            f"{items}: item {ids[row]!r} (data row {row + 1}) is there twice: keep one row an item"
        )
    modalities, encoders, without_image = _encode(workspace, dataset, params, codebook, table)
    grown, report = insert_vectors(codebook, item_map, modalities, encoders)
    if "image" in codebook.encoders:
        report["without_image"] = without_image
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(out) as temporary:
            grown.save(temporary)
            replace_folder(temporary, out)
    return report


def _encode(
    workspace: Workspace, dataset: str, params: Params, codebook: Codebook, table: pl.DataFrame
) -> tuple[dict[str, ItemVectors], dict[str, EncoderIdentity], dict[str, str]]:
    """The content modalities of the codebook, by the encoders that it was made with, and item -> why it has no
    picture."""
    from segue.encoders.attributes import AttributeSpace
    from segue.encoders.item_images import encode_items
    from segue.encoders.registry import image_encoder, text_encoder
    from segue.encoders.text import item_texts

    ids = table[Catalogue.ITEM].to_list()
    modalities: dict[str, ItemVectors] = {}
    encoders: dict[str, EncoderIdentity] = {}
    without_image: dict[str, str] = {}
    if "text" in codebook.encoders:
        encoder = text_encoder(params.encoders)
        texts = item_texts(table)
        present = np.array([bool(text) for text in texts], dtype=bool)
        vectors = np.zeros((len(ids), encoder.dimensions), dtype=np.float32)
        vectors[present] = encoder.encode([text for text in texts if text])
        modalities["text"] = ItemVectors(vectors=vectors, present=present, item_ids=ids)
        encoders["text"] = EncoderIdentity(name=encoder.name, weights_sha256=encoder.weights_sha256)
    if "image" in codebook.encoders:
        pictures = image_encoder(params.encoders.image_model, params.encoders)
        modalities["image"], without_image = encode_items(
            pictures, table, params.data, params.encoders, workspace
        )
        encoders["image"] = EncoderIdentity(name=pictures.name, weights_sha256=pictures.weights_sha256)
    if "attribute" in codebook.encoders:
        folder = workspace.step(dataset, "attribute_embeddings")
        space = AttributeSpace.load(folder)
        vectors, present = space.encode(table)
        modalities["attribute"] = ItemVectors(vectors=vectors, present=present, item_ids=ids)
        expected = EncoderIdentity.load(folder)
        if expected.weights_sha256 != space.sha256:
            raise BindingError(
                f"{folder}: attributes.json is not what encoder.json names; run the step again"
            )
        encoders["attribute"] = expected
    return modalities, encoders, without_image


def insert_vectors(
    codebook: Codebook,
    item_map: ItemMap,
    modalities: Mapping[str, ItemVectors],
    encoders: Mapping[str, EncoderIdentity],
) -> tuple[ItemMap, dict[str, Any]]:
    """The grown map, and what happened: ids, revision, and the codes of every item given (known ones keep
    theirs).

    A modality of the codebook that is not given is absent for all these items: the collaborative one is then
    imputed from the content. Raises BindingError for vectors of another encoder, DataError where the codebook
    is full.
    """
    given = {name: vectors for name, vectors in modalities.items() if name in codebook.encoders}
    if not given:
        raise DataError(f"the items have none of the codebook's modalities ({', '.join(codebook.encoders)})")
    ids = next(iter(given.values())).item_ids
    codebook.require_encoders({**codebook.encoders, **{name: encoders[name] for name in given}})
    for name, modality in codebook.fusion.modalities.items():
        if name not in given:
            given[name] = ItemVectors(
                vectors=np.zeros((len(ids), modality.dimension), dtype=np.float32),
                present=np.zeros(len(ids), dtype=bool),
                item_ids=list(ids),
            )
    vectors, present = codebook.fuse(given)
    grown = item_map.insert(codebook, ids, vectors, present)
    rows = [grown.row_of[item] for item in ids]
    return grown, {
        "item_map_id": grown.item_map_id,
        "before": item_map.item_map_id,
        "codebook_id": codebook.codebook_id,
        "revision": grown.revision,
        "inserted": sum(item not in item_map.row_of for item in ids),
        "known": sum(item in item_map.row_of for item in ids),
        "items": {item: grown.codes[row].tolist() for item, row in zip(ids, rows, strict=True)},
        "free": codebook.capacity - len(grown.item_ids),
    }


def compare(first: Path, second: Path) -> dict[str, Any]:
    """How much two item maps differ over the items that both have (retired ones left out).

    ``churn``: share of the common items whose codes differ at all; ``churn_by_level``: on each level;
    ``churn_by_prefix``: anywhere in the first l codes. Codes have no meaning across codebooks, neighbourhoods have:
    ``agreement_by_prefix`` is the adjusted mutual information (Vinh, Epps and Bailey 2010) between the groups that the
    first l codes make in the one and in the other, for all levels but the last: 1 where they are the same whatever
    the codes are called, about 0 where they are independent; null without common items. Raises ArtifactError
    where a folder holds no whole item map.
    """
    maps = [ItemMap.load(first), ItemMap.load(second)]
    active = [{item: row for item, row in each.row_of.items() if not each.retired[row]} for each in maps]
    common = sorted(set(active[0]) & set(active[1]))
    levels = min(len(each.level_sizes) for each in maps)
    codes = [
        each.codes[[rows[item] for item in common], :levels].reshape(len(common), levels)
        for each, rows in zip(maps, active, strict=True)
    ]
    differs = codes[0] != codes[1]
    count = max(len(common), 1)
    return {
        "first": maps[0].item_map_id,
        "second": maps[1].item_map_id,
        "same_codebook": maps[0].codebook_id == maps[1].codebook_id,
        "level_sizes": [list(each.level_sizes) for each in maps],
        "common_items": len(common),
        "only_first": len(active[0]) - len(common),
        "only_second": len(active[1]) - len(common),
        "churn": float(differs.any(axis=1).sum() / count),
        "churn_by_level": (differs.sum(axis=0) / count).tolist(),
        "churn_by_prefix": (np.logical_or.accumulate(differs, axis=1).sum(axis=0) / count).tolist(),
        "agreement_by_prefix": [
            _agreement(*(each[:, :level] for each in codes)) for level in range(1, levels)
        ],
    }


def _agreement(first: Codes, second: Codes) -> float | None:
    """Adjusted mutual information of the groups of equal rows of two arrays of codes [N, l]."""
    from sklearn.metrics import adjusted_mutual_info_score

    if not len(first):
        return None
    groups = [np.unique(each, axis=0, return_inverse=True)[1].ravel() for each in (first, second)]
    return round(float(adjusted_mutual_info_score(*groups)), 6)
