"""``reports/<dataset>/content.html``: what the items have to say for themselves, modality by modality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from segue.reporting.render import count, percent, write_page
from segue.reporting.svg import histogram

MODALITIES = {
    "text": ("Text", "Title, categories and description, as the text encoder reads them."),
    "image": ("Image", "One picture file an item."),
    "attribute": ("Attributes", "Categories, year and price. Many items may rightly be alike."),
    "collaborative": ("Collaborative", "Who was consumed with what, in the training part alone."),
}
HAVE = {
    "text": "text",
    "image": "a picture",
    "attribute": "attributes",
    "collaborative": "a collaborative vector",
}
REASONS = {
    "not_named": "the catalogue names no picture",
    "missing": "the named file does not exist",
    "unreadable": "the file may not be read",
    "outside": "the path leads out of the picture folder",
    "remote": "the path is a URL, which is not fetched",
    "empty": "the file is empty",
    "not_an_image": "the file is no image, whatever its name",
    "broken": "the image is damaged",
    "too_large": "the image has too many pixels",
    "tiny": "the image is too small to show anything",
    "blank": "the image is of one colour",
}


def write_content_page(reports: Path, report: Mapping[str, Any], *, dataset: str, title: str) -> Path:
    """Render the page from ``quality.json`` of the step ``content_quality``. Returns its path."""
    known = report["modalities"]
    return write_page(
        reports / "content.html",
        "content.html.j2",
        dataset=dataset,
        title=title,
        items=report["items"],
        lead=_lead(report),
        findings=report["findings"],
        sections=[_section(name, known[name]) for name in MODALITIES if name in known],
        per_item=report["modalities_per_item"],
        without=report["without_content"],
    )


def _lead(report: Mapping[str, Any]) -> str:
    parts = [
        f"{percent(entry['coverage'])} have {words}"
        for name, words in HAVE.items()
        if (entry := report["modalities"].get(name)) is not None and entry["items"]
    ]
    absent = [
        words
        for name, words in HAVE.items()
        if (entry := report["modalities"].get(name)) is not None and not entry["items"]
    ]
    told = f"Of {count(report['items'])} items {', '.join(parts) or 'none has any content'}."
    return told + (f" None has {' or '.join(absent)}." if absent else "")


def _section(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    title, what = MODALITIES[name]
    duplicates, near = entry["duplicates"], entry["near_duplicates"]
    facts = [
        ("Items that have it", f"{count(entry['items'])} ({percent(entry['coverage'])})"),
        (
            "The same content twice",
            f"{count(duplicates['items'])} items ({percent(duplicates['share'])}) in "
            f"{count(duplicates['groups'])} groups",
        ),
        (
            f"Nearly the same (cosine {near['threshold']:g} or more)",
            f"{count(near['contents'])} of {count(near['looked_at'])} different contents looked at "
            f"({percent(near['share'])})",
        ),
    ]
    plots: list[tuple[str, Markup]] = []
    if name == "text":
        quantiles = entry["characters"]["quantiles"]
        facts += [
            ("Without any text", count(entry["empty"])),
            ("Short texts", count(entry["short"])),
            (
                "Characters",
                f"median {quantiles['0.5']:.0f}, 5 % below {quantiles['0.05']:.0f}, 5 % above {quantiles['0.95']:.0f}",
            ),
        ]
        plots.append(_plot("Length of the texts", entry["characters"], "characters"))
    if name == "image":
        same = entry["same_picture"]
        facts += [
            ("Picture files", f"{count(entry['files'])}, of which {count(entry['unusable'])} are of no use"),
            (
                f"The same picture in other bytes (at most {same['threshold']:g} of 64 bits differ)",
                f"{count(same['contents'])} of {count(same['looked_at'])} looked at ({percent(same['share'])})",
            ),
            ("Formats", _counted(entry["formats"])),
            ("Pixel modes", _counted(entry["modes"])),
        ]
        plots.append(_plot("Shorter side", entry["shorter_side"], "pixels"))
    if near["nearest_cosine"] is not None:
        plots.append(_plot("Cosine to the most similar other content", near["nearest_cosine"], "cosine"))
    return {
        "title": title,
        "what": what,
        "empty": not entry["items"],
        "facts": facts,
        "plots": plots,
        "groups": duplicates["largest"],
        "pairs": near["nearest"],
        "pictures": entry["same_picture"]["nearest"] if name == "image" else [],
        "reasons": [
            (REASONS.get(reason, reason), found["items"], found["examples"])
            for reason, found in entry.get("reasons", {}).items()
        ],
    }


def _plot(caption: str, entry: Mapping[str, Any], unit: str) -> tuple[str, Markup]:
    return caption, histogram(entry["edges"], entry["counts"], caption=caption, unit=unit)


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count(times)}" for name, times in found.items()) or "none"
