"""Step ``attribute_embeddings``: a vector for every item's structured attributes."""

from __future__ import annotations

from segue.artifacts import write_json
from segue.encoders.attributes import AttributeSpace
from segue.items import Items, ItemVectors
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ItemVectors, ``attributes.json`` (the frozen space) and ``encoder.json``.

    Where the base keeps an earlier artifact, its space is used as it is: categories that it does not know
    share one column, and no known item moves.
    """
    items = Items.load(context.inputs["splits"])
    kept = context.kept("attribute_embeddings")
    space = (
        AttributeSpace.fit(items.table, context.params.encoders.attribute_max_categories)
        if kept is None
        else AttributeSpace.load(kept)
    )
    vectors, present = space.encode(items.table)
    ItemVectors(vectors=vectors, present=present, item_ids=items.ids).save(context.output)
    space.save(context.output)
    write_json(
        context.output / "encoder.json",
        {
            "name": "attributes",
            "kind": "attribute",
            "weights_sha256": space.sha256,
            "dimensions": space.dimensions,
        },
    )
    context.metrics["categories"] = len(space.categories)
    context.metrics["items_without_attributes"] = int((~present).sum())
