"""``reports/<dataset>/semantic_ids.html``: how good the semantic IDs are, and the catalogue as they see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from segue.artifacts import read_json
from segue.errors import ArtifactError
from segue.params import Params
from segue.reporting.charts import Bar, bar_chart, column_chart
from segue.reporting.render import NOTHING, count, number, percent, write_page
from segue.reporting.thumbnails import Thumbnails, picture_folder
from segue.schema import Catalogue
from segue.tokenizers.themes import TABLE
from segue.workspace import Workspace

PAGE = "semantic_ids.html"
_LARGEST = 20  # items on a prefix that the histogram shows one by one; more stand in one column


def write_semantic_ids_page(
    reports: Path, folder: Path, *, dataset: str, params: Params, workspace: Workspace
) -> Path:
    """Render the page from the files in ``folder`` (a ``semantic_id_report``). Returns its path.

    Pictures are taken from where the catalogue's image paths lead, if anywhere. Raises ArtifactError where a file is
    missing.
    """
    quality = read_json(folder / "quality.json")
    assert isinstance(quality, dict)
    if not (folder / TABLE).is_file():
        raise ArtifactError(f"{folder / TABLE} is missing: run the step semantic_id_report again")
    themes = pl.read_parquet(folder / TABLE)
    settings = params.semantic_ids
    named = themes["examples"].explode().struct.field(Catalogue.IMAGE).drop_nulls().len() > 0
    pictures = Thumbnails(picture_folder(params.data, workspace) if named else None, settings.thumbnails)
    shown = _shown(themes, settings.page_prefixes)
    return write_page(
        reports / PAGE,
        "semantic_ids.html.j2",
        dataset=dataset,
        title=params.data.title or dataset,
        lead=lead(quality),
        cards=_cards(quality),
        findings=quality["findings"],
        plots=_plots(quality),
        tree=_tree(shown, themes, pictures),
        shown=shown.height,
        prefixes=themes.height,
        levels=len(quality["levels"]),
        item_map_id=quality["item_map_id"],
    )


def lead(quality: dict[str, Any]) -> str:
    """What the IDs come to, in three sentences."""
    sizes = " \N{MULTIPLICATION SIGN} ".join(str(level["size"]) for level in quality["levels"])
    quantized = len(quality["levels"]) - 1
    first = "The first code is" if quantized == 1 else f"The first {quantized} codes are"
    return (
        f"{count(quality['items'])} items have a semantic ID of {len(quality['levels'])} codes ({sizes}). "
        f"{first} the prefix, and say what an item is like; {percent(quality['unique_item_rate'], 0)} of the items have "
        "a prefix to themselves, and the last code tells the others apart."
    )


def _cards(quality: dict[str, Any]) -> list[tuple[str, str, str]]:
    items = max(quality["items"], 1)
    return [
        (
            "Prefixes in use",
            count(quality["prefixes_in_use"]),
            f"{items / max(quality['prefixes_in_use'], 1):.1f} items each",
        ),
        (
            "Items alone on their prefix",
            percent(quality["unique_item_rate"]),
            f"{count(quality['collisions'])} share theirs with another",
        ),
        (
            "Excess collisions",
            count(quality["excess_collisions"]),
            f"{percent(quality['excess_collisions'] / items)} of the items: only the last code is new to them",
        ),
        (
            "Reconstruction error",
            number(quality["reconstruction_error"]),
            "of the content and behaviour that the prefix loses",
        ),
        (
            "Room left",
            count(quality["room"]["in_use"]),
            f"items, on the prefixes in use; {count(quality['full_prefixes'])} of these are full",
        ),
    ]


def _plots(quality: dict[str, Any]) -> dict[str, Any]:
    return {
        "usage": [_usage(quality, level) for level in range(len(quality["levels"]))],
        "evenness": bar_chart(
            [
                Bar(
                    f"Level {level}",
                    entry["relative_perplexity"],
                    f"{entry['perplexity']:.1f} of {entry['size']}",
                    entry["usage"],
                )
                for level, entry in enumerate(quality["levels"], start=1)
            ],
            caption="Perplexity of each level as a share of its size; the line is the share of codes in use",
            most=1.0,
            percents=True,
        ),
        "reconstruction": bar_chart(
            [
                Bar("No code", 1.0, "1.000"),
                *(
                    Bar(f"After {_codes(depth)}", error, number(error))
                    for depth, error in enumerate(quality["reconstruction_error_by_depth"], start=1)
                ),
            ],
            caption="Reconstruction error after 1, 2, … codes",
            most=max(1.0, *quality["reconstruction_error_by_depth"]),
        ),
        "collisions": _collisions(quality["items_per_prefix"]),
        "room": _room(quality["room"]["prefixes_by_free"]),
        "content": _agreement(
            quality["neighbour_agreement_by_depth"],
            quality["neighbour_agreement_by_depth_by_chance"],
            "Nearest neighbours in content that share the first codes",
            most=1.0,
        ),
        "co_consumption": _agreement(
            quality["co_consumption"]["by_depth"],
            quality["co_consumption"]["by_chance"],
            "Pairs consumed together that share the first codes",
        ),
        "neighbours": quality["neighbours"],
        "pairs": quality["co_consumption"]["pairs"],
    }


def _usage(quality: dict[str, Any], level: int) -> dict[str, Any]:
    entry, usage = quality["levels"][level], quality["items_per_code"][level]
    last = level == len(quality["levels"]) - 1
    return {
        "title": f"Level {level + 1}" + (" (tells apart)" if last else ""),
        "plot": column_chart(
            usage,
            caption=f"Items on each code of level {level + 1}",
            x_title="codes, most used first",
            y_title="items",
            reference=None if last else sum(usage) / entry["size"],
        ),
        "told": f"{entry['in_use']} of {entry['size']} codes in use, {entry['dead']} dead; "
        f"entropy {entry['entropy_bits']:.2f} bits, perplexity {entry['perplexity']:.1f}",
    }


def _collisions(items_per_prefix: dict[str, int]) -> Markup:
    """Prefixes by how many items share them; those above :data:`_LARGEST` in one column."""
    sizes = {int(size): times for size, times in items_per_prefix.items()}
    most = max(sizes, default=1)
    values = [sizes.get(size, 0) for size in range(1, min(most, _LARGEST) + 1)]
    labels = [str(size) for size in range(1, len(values) + 1)]
    if most > _LARGEST:
        values.append(sum(times for size, times in sizes.items() if size > _LARGEST))
        labels.append(f"{_LARGEST + 1}+")
    return column_chart(
        values,
        labels=labels,
        caption="Prefixes by the number of items that share them",
        x_title="items that share a prefix",
        y_title="prefixes",
    )


def _room(prefixes_by_free: dict[str, int]) -> Markup:
    """Prefixes by how many more items they can take; neighbours are put together where there are many."""
    sizes = {int(size): times for size, times in prefixes_by_free.items()}
    most = max(sizes, default=0)
    width = most // 32 + 1
    values = [0] * (most // width + 1)
    for size, times in sizes.items():
        values[size // width] += times
    return column_chart(
        values,
        labels=[str(size * width) for size in range(len(values))],
        caption="Prefixes by how many more items they can take",
        x_title="items that a prefix can still take" + (f" (in steps of {width})" if width > 1 else ""),
        y_title="prefixes",
    )


def _agreement(
    measured: list[float | None], chance: list[float | None], caption: str, *, most: float | None = None
) -> Markup:
    bars = [
        Bar(
            f"Same first {_codes(depth)}" if depth > 1 else "Same first code",
            value,
            _against(value, expected),
            expected,
        )
        for depth, (value, expected) in enumerate(zip(measured, chance, strict=True), start=1)
    ]
    return bar_chart(bars, caption=f"{caption}; the line is chance", most=most, percents=True)


def _against(value: float | None, chance: float | None) -> str:
    if value is None:
        return NOTHING
    times = f", {value / chance:.1f}\N{MULTIPLICATION SIGN} chance" if chance else ""
    return f"{percent(value)}{times}"


def _codes(number_of: int) -> str:
    return "1 code" if number_of == 1 else f"{number_of} codes"


def _shown(themes: pl.DataFrame, most: int) -> pl.DataFrame:
    """The prefixes on the page: short ones first, among equally long ones those with most items. A prefix stands there
    only after all shorter ones, so none is without its parent."""
    return (
        themes.with_columns(pl.col("prefix").list.len().alias("depth"))
        .sort("depth", "items", "train_count", descending=[False, True, True], maintain_order=True)
        .head(most)
    )


def _tree(shown: pl.DataFrame, themes: pl.DataFrame, pictures: Thumbnails) -> dict[str, Any]:
    """The root: its ``children``, each with theme, figures, examples and children; and what is not shown."""
    below = {
        tuple(prefix or ()): times
        for prefix, times in themes.group_by(
            pl.col("prefix").list.head(pl.col("prefix").list.len() - 1).alias("parent")
        )
        .len()
        .iter_rows()
    }
    root: dict[str, Any] = {"children": [], "hidden": 0}
    nodes: dict[tuple[int, ...], dict[str, Any]] = {(): root}
    for row in shown.iter_rows(named=True):
        prefix = tuple(row["prefix"])
        node = {
            "prefix": " \N{MIDDLE DOT} ".join(str(code) for code in prefix),
            "words": row["words"],
            "items": row["items"],
            "train_count": row["train_count"],
            "examples": [
                {
                    "title": entry[Catalogue.TITLE] or entry[Catalogue.ITEM],
                    "picture": pictures.of(entry[Catalogue.IMAGE]),
                }
                for entry in row["examples"]
            ],
            "more": row["items"] - len(row["examples"]),
            "children": [],
            "hidden": 0,
        }
        nodes[prefix] = node
        nodes[prefix[:-1]]["children"].append(node)
    for prefix, node in nodes.items():
        node["hidden"] = below.get(prefix, 0) - len(node["children"])
    return root
