"""``segue search``: the items that a text or a picture asks for.

Where the codebook's fusion is contrastive, the query is mapped into the space of the items' own vectors: a text finds items
that have no text, a picture items that have no picture. Under any other fusion each modality has its own space, and a
query finds the items that have the same modality.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.artifacts import read_manifest
from segue.errors import ArtifactError, ConfigurationError, DataError
from segue.items import Items, ItemVectors
from segue.schema import Catalogue
from segue.tokenizers.alignment import Alignment
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.retrieval import nearest

if TYPE_CHECKING:
    from segue.params import Params
    from segue.workspace import Workspace


def search(
    workspace: Workspace,
    dataset: str,
    params: Params,
    *,
    text: str | None = None,
    image: Path | None = None,
    k: int = 10,
) -> dict[str, Any]:
    """The ``k`` items nearest to the text or the picture, best first, with their cosines, and the space.

    Raises ConfigurationError for both or neither, DataError for an empty text, k below 1, a picture that cannot be
    used or a modality that the codebook lacks, ArtifactError before the first run, and BindingError for another
    encoder than the codebook's.
    """
    if (text is None) == (image is None):
        raise ConfigurationError("give a text or --image, one of the two")
    if k < 1:
        raise DataError(f"k is {k}: ask for at least one item")
    for step in ("splits", "codebook", "item_map"):
        read_manifest(workspace.step(dataset, step), remedy=f"run `segue run --dataset {dataset}` first")
    items = Items.load(workspace.step(dataset, "splits"))
    codebook = Codebook.load(workspace.step(dataset, "codebook"))
    name = "text" if image is None else "image"
    if name not in codebook.encoders:
        raise DataError(
            f"the codebook of {dataset} was made without {name} (of {', '.join(codebook.encoders)}): "
            f"nothing can be searched by {name}"
        )
    query, encoder = _text_query(params, text) if image is None else _image_query(params, image)
    codebook.require_encoders({**codebook.encoders, name: encoder})
    if isinstance(codebook.fusion, Alignment):
        space = "aligned"
        vector = codebook.fusion.project(name, query)[0]
        item_map = ItemMap.load(workspace.step(dataset, "item_map"))
        item_map.require_codebook(codebook)
        item_map = item_map.align(items)
        vectors = item_map.vectors[: len(items)]
        allowed = item_map.present[: len(items)] & ~item_map.retired[: len(items)]
    else:
        space = name
        vector = query.vectors[0]
        own = ItemVectors.load(workspace.step(dataset, f"{name}_embeddings"))
        if own.item_ids != items.ids:
            raise ArtifactError(
                f"{workspace.step(dataset, f'{name}_embeddings')} has vectors of other items than the splits: "
                f"a run was stopped in between; `segue run --dataset {dataset}` finishes it"
            )
        vectors, allowed = own.vectors, own.present
    rows, cosines = nearest(vector, vectors, allowed, k)
    titles = items.table[Catalogue.TITLE].to_list() if Catalogue.TITLE in items.table.columns else items.ids
    return {
        "space": space,
        "items": [
            {"item_id": items.ids[row], "title": titles[row], "cosine": round(float(cosine), 4)}
            for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)
        ],
    }


def _text_query(params: Params, text: str | None) -> tuple[ItemVectors, EncoderIdentity]:
    from segue.encoders.registry import text_encoder

    if not text or not text.strip():
        raise DataError("the text is empty: say what you look for")
    encoder = text_encoder(params.encoders)
    return _one(encoder.encode([text])), EncoderIdentity(
        name=encoder.name, weights_sha256=encoder.weights_sha256
    )


def _image_query(params: Params, image: Path) -> tuple[ItemVectors, EncoderIdentity]:
    from segue.encoders.pictures import look
    from segue.encoders.registry import image_encoder

    try:
        reason = look(image.read_bytes(), params.encoders).reason
    except OSError as error:
        raise DataError(f"{image} cannot be read ({error.strerror}): give a picture's file") from error
    if reason is not None:
        raise DataError(f"{image} is no picture to search by: {reason}")
    encoder = image_encoder(params.encoders.image_model, params.encoders)
    return _one(encoder.encode([image])), EncoderIdentity(
        name=encoder.name, weights_sha256=encoder.weights_sha256
    )


def _one(vectors: np.ndarray) -> ItemVectors:
    return ItemVectors(
        vectors=vectors.astype(np.float32), present=np.ones(1, dtype=bool), item_ids=["the query"]
    )
