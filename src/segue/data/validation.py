"""Validation: bad rows are set aside with their reason, tables that are too bad or too small stop the run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from segue.data.expectations import (
    Bound,
    Finding,
    RowRule,
    TableToJudge,
    catalogue_rules,
    interaction_rules,
    judge,
)
from segue.data.settings import ValidationSettings
from segue.errors import DataError
from segue.schema import Catalogue, Interactions

_DAY = 86_400
_TEXT, _NUMBER, _SECONDS = (
    ("str",),
    ("float64",),
    ("int64", "float64"),
)  # pandas has integers with gaps as floats
QUARANTINE_SCHEMA: dict[str, pl.DataType] = {
    "table": pl.String(),
    "row": pl.Int64(),
    "reason": pl.String(),
    "record": pl.String(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What validation leaves. ``quarantine``: [table, row i64, reason, record as JSON text].

    ``row`` counts data rows from 1, the header not among them, as every message does: first the rows of the
    source, file by file, then those appended in order of arrival.
    """

    interactions: pl.DataFrame
    catalogue: pl.DataFrame
    quarantine: pl.DataFrame
    findings: list[Finding]
    results: dict[str, Any]  # deterministic: booleans and counts

    def raise_for_failures(self, pages: Path) -> None:
        """Raise DataError naming what failed, where anything did."""
        failed = [finding for finding in self.findings if not finding.success]
        if not failed:
            return
        lines = [
            f"{finding.table}: {finding.description}"
            + (f" ({finding.unexpected} of {finding.rows} rows)" if finding.table != "dataset" else "")
            for finding in failed
        ]
        reasons = (
            self.quarantine.group_by("table", "reason").len().sort("len", "reason", descending=[True, False])
        )
        commonest = [f"{row['len']} × {row['table']}: {row['reason']}" for row in reasons.head(5).to_dicts()]
        raise DataError(
            "validation stopped the run:\n  - "
            + "\n  - ".join(lines)
            + ("\nset aside: " + "; ".join(commonest) if commonest else "")
            + f"\nsee {pages / 'index.html'}; mend the data, or change `validation` in the profile"
        )


def validate(
    interactions: pl.DataFrame,
    catalogue: pl.DataFrame,
    settings: ValidationSettings,
    *,
    has_timestamps: bool,
    has_catalogue: bool,
    now: int,
    pages: Path,
) -> Validated:
    """Judge both raw tables as of ``now`` (seconds), and write Data Docs to the folder ``pages``.

    Without a catalogue of its own (``has_catalogue`` false) the dataset's items are those of the
    interactions, besides any that ``catalogue`` describes. Never raises for bad data: see
    :meth:`Validated.raise_for_failures`.
    """
    item_rules = catalogue_rules(settings, now=now)
    clean_items, bad_items = _quarantine("catalogue", catalogue, item_rules)
    event_rules = interaction_rules(
        settings,
        now=now,
        has_timestamps=has_timestamps,
        known_items=clean_items[Catalogue.ITEM] if has_catalogue else None,
    )
    clean, bad_events = _quarantine("interactions", interactions, event_rules)
    if not has_catalogue:
        clean_items = _with_items_of(clean_items, clean)
    lost = (
        interactions.join(clean, on=Interactions.USER, how="anti")[Interactions.USER]
        .drop_nulls()
        .unique()
        .sort()
    )
    allowed = settings.max_quarantined_share if settings.on_bad_rows == "quarantine" else 0.0
    tables = [
        TableToJudge(
            name="interactions",
            rows=interactions,
            rules=event_rules,
            types={Interactions.USER: _TEXT, Interactions.ITEM: _TEXT, Interactions.WEIGHT: _NUMBER}
            | ({Interactions.TIMESTAMP: _SECONDS} if has_timestamps else {}),
            tolerated_rows=allowed * interactions.height,
        )
    ]
    if not catalogue.is_empty():
        tables.append(
            TableToJudge(
                name="catalogue",
                rows=catalogue,
                rules=item_rules,
                types={Catalogue.ITEM: _TEXT},
                tolerated_rows=allowed * catalogue.height,
            )
        )
    bad = {
        "interactions": (bad_events.height, interactions.height),
        "catalogue": (bad_items.height, catalogue.height),
    }
    bounds = [
        *_volume(clean, settings),
        *_shares(bad, allowed),
        *_freshness(clean, settings, has_timestamps=has_timestamps, now=now),
    ]
    findings = judge(tables, bounds, pages)
    quarantine = pl.concat([bad_items, bad_events])
    return Validated(
        interactions=clean,
        catalogue=clean_items,
        quarantine=quarantine,
        findings=findings,
        results={
            "success": all(finding.success for finding in findings),
            "expectations": [asdict(finding) for finding in findings],
            "rows": {
                "interactions": {
                    "read": interactions.height,
                    "kept": clean.height,
                    "set_aside": bad_events.height,
                },
                "catalogue": {
                    "read": catalogue.height,
                    "kept": clean_items.height,
                    "set_aside": bad_items.height,
                },
            },
            "reasons": [
                {"table": row["table"], "reason": row["reason"], "rows": row["len"]}
                for row in quarantine.group_by("table", "reason").len().sort("table", "reason").to_dicts()
            ],
            "users": clean[Interactions.USER].n_unique(),
            "items": clean[Interactions.ITEM].n_unique(),
            "users_left_without_events": {"count": lost.len(), "first": lost.head(20).to_list()},
        },
    )


def _quarantine(
    table: str, rows: pl.DataFrame, rules: Sequence[RowRule]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows to keep (bad fields emptied), and the quarantine of the others and of the emptied fields."""
    reasons = pl.concat_str(
        [pl.when(rule.bad.fill_null(False)).then(pl.lit(rule.reason)) for rule in rules],
        separator="; ",
        ignore_nulls=True,
    )
    drops = pl.any_horizontal(rule.bad.fill_null(False) for rule in rules if not rule.empties)
    judged = rows.with_row_index("row", offset=1).with_columns(reasons.alias("reason"), drops.alias("drops"))
    bad = judged.filter(pl.col("reason") != "")
    # `order` is ours, not the user's, and counts from 0: beside `row` it would be a second convention.
    shown = [name for name in rows.columns if name != Interactions.ORDER]
    quarantine = pl.DataFrame(
        {
            "table": [table] * bad.height,
            "row": bad["row"].cast(pl.Int64),
            "reason": bad["reason"],
            "record": [_record(record) for record in bad.select(shown).iter_rows(named=True)],
        },
        schema=QUARANTINE_SCHEMA,
    )
    emptied = [
        pl.when(rule.bad.fill_null(False)).then(None).otherwise(pl.col(rule.column)).alias(rule.column)
        for rule in rules
        if rule.empties
    ]
    return judged.with_columns(emptied).filter(~pl.col("drops")).select(rows.columns), quarantine


def _record(row: dict[str, Any]) -> str:
    """A row as JSON; numbers that JSON does not know (NaN, infinity) as their names, absent fields left
    out."""
    return json.dumps(
        {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
            if value is not None
        },
        ensure_ascii=False,
        sort_keys=True,
    )


def _with_items_of(catalogue: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    ids = interactions.select(pl.col(Interactions.ITEM).alias(Catalogue.ITEM)).unique().sort(Catalogue.ITEM)
    return pl.concat([catalogue, ids.join(catalogue, on=Catalogue.ITEM, how="anti")], how="diagonal").sort(
        Catalogue.ITEM
    )


def _volume(clean: pl.DataFrame, settings: ValidationSettings) -> list[Bound]:
    counts = {
        "interactions": (clean.height, settings.min_interactions),
        "users": (clean[Interactions.USER].n_unique(), settings.min_users),
        "items": (clean[Interactions.ITEM].n_unique(), settings.min_items),
    }
    return [
        Bound(
            name=f"usable_{name}",
            value=value,
            low=low,
            high=None,
            description=f"At least {low} {name} are left (here {value}; validation.min_{name})",
        )
        for name, (value, low) in counts.items()
    ]


def _shares(bad: dict[str, tuple[int, int]], allowed: float) -> list[Bound]:
    return [
        Bound(
            name=f"{table}_set_aside_share",
            value=count / max(1, rows),
            low=None,
            high=allowed,
            description=f"At most {allowed:.1%} of the rows of {table} are bad (here {count} of {rows}; "
            "validation.max_quarantined_share and on_bad_rows)",
        )
        for table, (count, rows) in bad.items()
    ]


def _freshness(
    clean: pl.DataFrame, settings: ValidationSettings, *, has_timestamps: bool, now: int
) -> list[Bound]:
    if settings.max_age_days is None:
        return []
    newest = clean[Interactions.TIMESTAMP].max() if has_timestamps else None
    assert newest is None or isinstance(newest, int)
    return [
        Bound(
            name="newest_event_age_days",
            value=math.inf if newest is None else (now - newest) / _DAY,
            low=None,
            high=settings.max_age_days,
            description=f"The newest event is at most {settings.max_age_days:g} days old "
            "(validation.max_age_days)",
        )
    ]
