"""What every table must satisfy, each rule said once: as a polars predicate that finds the bad rows, and as a
Great Expectations expectation that judges the table and is shown in Data Docs.

The two are independent implementations of one rule; :func:`judge` refuses to go on where their counts differ.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

from segue.artifacts import replace_folder, temporary_folder
from segue.data.settings import ValidationSettings
from segue.errors import SegueError
from segue.schema import Catalogue, Interactions

Table = Literal["interactions", "catalogue", "dataset"]

# Control characters (Unicode Cc) and the two Unicode line separators: what would break a line or a header.
_BAD_ID: Final = "^$|[\x00-\x1f\x7f-\x9f\u2028\u2029]"
# Blanks that people do not see: space, no-break space and Unicode's other widths.
_BLANK: Final = "[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
_LAST_YEAR: Final = 2200


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRule:
    """One rule about rows. ``bad`` is true for rows that break it; null counts as kept.

    ``expectation`` names the Great Expectations class and ``arguments`` its own arguments. Where there is no
    class for the rule, ``flag`` is a column, true for good rows, on which a plain one looks. ``empties``: the
    row is kept and only the field emptied.
    """

    name: str
    column: str
    reason: str
    bad: pl.Expr
    expectation: str = "ExpectColumnValuesToBeInSet"
    arguments: tuple[tuple[str, Any], ...] = ()
    flag: bool = False
    empties: bool = False

    @property
    def looks_at(self) -> str:
        """The column that the expectation is about."""
        return f"{self.name}_holds" if self.flag else self.column


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one expectation ended. Nothing in it differs from run to run on equal data."""

    table: Table
    name: str
    expectation: str
    column: str
    description: str
    success: bool
    rows: int
    unexpected: int


def _id_rules(column: str) -> list[RowRule]:
    return [
        RowRule(
            name=f"{column}_is_given",
            column=column,
            reason=f"{column} is missing",
            bad=pl.col(column).is_null(),
            expectation="ExpectColumnValuesToNotBeNull",
        ),
        RowRule(
            name=f"{column}_is_printable",
            column=column,
            reason=f"{column} is empty or holds a line break or another control character",
            bad=pl.col(column).str.contains(_BAD_ID),
            expectation="ExpectColumnValuesToNotMatchRegex",
            arguments=(("regex", _BAD_ID),),
        ),
        # Set aside, not stripped: stripped, two ids of the source could silently become one.
        RowRule(
            name=f"{column}_is_bare",
            column=column,
            reason=f"{column} begins or ends with a blank",
            bad=pl.col(column).str.contains(f"^{_BLANK}|{_BLANK}$"),
            expectation="ExpectColumnValuesToNotMatchRegex",
            # Python's $ would also match before a last line break, polars' does not.
            arguments=(("regex", f"^{_BLANK}|{_BLANK}\\Z"),),
        ),
    ]


def _between(name: str, column: str, reason: str, *, low: float | None, high: float | None) -> RowRule:
    value = pl.col(column)
    outside = [value < low] if low is not None else []
    outside += [value > high] if high is not None else []
    bad = pl.any_horizontal(outside)
    return RowRule(
        name=name,
        column=column,
        reason=reason,
        # polars sorts NaN above every number; that it is NaN is another rule's matter.
        bad=bad & value.cast(pl.Float64).is_not_nan(),
        expectation="ExpectColumnValuesToBeBetween",
        arguments=(("min_value", low), ("max_value", high)),
    )


def _latest(settings: ValidationSettings, now: int) -> int:
    """The last second that is not in the future."""
    return now + math.floor(settings.max_future_days * 86_400)


def interaction_rules(
    settings: ValidationSettings, *, now: int, has_timestamps: bool, known_items: pl.Series | None
) -> list[RowRule]:
    """The rules about events as of ``now`` (seconds); ``known_items``: None where the dataset has no catalogue."""
    latest, min_weight, max_weight = _latest(settings, now), settings.min_weight, settings.max_weight
    weight = pl.col(Interactions.WEIGHT)
    rules = [*_id_rules(Interactions.USER), *_id_rules(Interactions.ITEM)]
    if has_timestamps:
        stamp = Interactions.TIMESTAMP
        rules += [
            RowRule(
                name="timestamp_is_given",
                column=stamp,
                reason="timestamp is missing",
                bad=pl.col(stamp).is_null(),
                expectation="ExpectColumnValuesToNotBeNull",
            ),
            _between("timestamp_since_1970", stamp, "timestamp lies before 1970", low=0, high=None),
            _between("timestamp_not_in_future", stamp, "timestamp lies in the future", low=None, high=latest),
            RowRule(
                name="event_is_new",
                column=stamp,
                reason="the same event stands in an earlier row",
                bad=~pl.struct(
                    Interactions.USER, Interactions.ITEM, stamp, Interactions.ACTION, Interactions.WEIGHT
                ).is_first_distinct(),
                flag=True,
            ),
        ]
    rules.append(
        RowRule(
            name="weight_is_finite",
            column=Interactions.WEIGHT,
            reason="weight is NaN or infinite",
            bad=~weight.is_finite(),
            flag=True,
        )
    )
    if min_weight is not None or max_weight is not None:
        limits = f"{'' if min_weight is None else min_weight}…{'' if max_weight is None else max_weight}"
        rules.append(
            _between(
                "weight_in_range",
                Interactions.WEIGHT,
                f"weight lies outside {limits}",
                low=min_weight,
                high=max_weight,
            )
        )
    if known_items is not None:
        rules.append(
            RowRule(
                name="item_in_catalogue",
                column=Interactions.ITEM,
                reason="the catalogue has no such item",
                bad=~pl.col(Interactions.ITEM).is_in(known_items.implode()),
                flag=True,
            )
        )
    return rules


def catalogue_rules(settings: ValidationSettings, *, now: int) -> list[RowRule]:
    """The rules about items as of ``now`` (seconds). A bad attribute empties the field only: the item itself is still
    wanted."""
    latest = _latest(settings, now)
    price = pl.col(Catalogue.PRICE)
    return [
        *_id_rules(Catalogue.ITEM),
        RowRule(
            name="item_is_new",
            column=Catalogue.ITEM,
            reason="an earlier row has the same item_id",
            bad=~pl.col(Catalogue.ITEM).is_first_distinct() & pl.col(Catalogue.ITEM).is_not_null(),
            flag=True,
        ),
        RowRule(
            name="price_is_finite",
            column=Catalogue.PRICE,
            reason="price is negative, NaN or infinite (field emptied, row kept)",
            bad=~price.is_finite() | (price < 0),
            flag=True,
            empties=True,
        ),
        RowRule(
            name="year_in_range",
            column=Catalogue.YEAR,
            reason=f"year lies outside 1…{_LAST_YEAR} (field emptied, row kept)",
            bad=(pl.col(Catalogue.YEAR) < 1) | (pl.col(Catalogue.YEAR) > _LAST_YEAR),
            expectation="ExpectColumnValuesToBeBetween",
            arguments=(("min_value", 1), ("max_value", _LAST_YEAR)),
            empties=True,
        ),
        RowRule(
            name="created_at_in_range",
            column=Catalogue.CREATED_AT,
            reason="created_at lies before 1970 or in the future (field emptied, row kept)",
            bad=(pl.col(Catalogue.CREATED_AT) < 0) | (pl.col(Catalogue.CREATED_AT) > latest),
            expectation="ExpectColumnValuesToBeBetween",
            arguments=(("min_value", 0), ("max_value", latest)),
            empties=True,
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableToJudge:
    """A raw table with its rules."""

    name: Table
    rows: pl.DataFrame
    rules: Sequence[RowRule]
    types: Mapping[str, tuple[str, ...]]  # column -> the pandas types that it may have
    tolerated_rows: float  # how many rows may break a rule before the table fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A fact about the whole dataset and what it must be."""

    name: str
    value: float
    low: float | None
    high: float | None
    description: str


def judge(tables: Sequence[TableToJudge], bounds: Sequence[Bound], pages: Path) -> list[Finding]:
    """Run one suite a table, and one over the dataset's ``bounds``; replace the folder ``pages`` by their
    Data Docs.

    Raises SegueError where Great Expectations counts other bad rows than the quarantine, or fails itself.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    kinds: Any = importlib.import_module("great_expectations.expectations")
    # The default would leave a docs site of its own in the system's temporary folder.
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=stores,
            progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
        ),
    )
    source = context.data_sources.add_pandas("segue")

    def run(name: Table, frame: Any, expectations: Sequence[Any]) -> Any:
        whole = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("whole")
        suite = gx.ExpectationSuite(name=name, expectations=list(expectations))
        definition = gx.ValidationDefinition(name=name, data=whole, suite=context.suites.add(suite))
        return context.validation_definitions.add(definition).run(batch_parameters={"dataframe": frame})

    with temporary_folder(pages) as built:
        context.add_data_docs_site(
            site_name="pages",
            site_config={
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(built),
                },
            },
        )
        findings: list[Finding] = []
        for table in tables:
            expectations = [_of_rule(kinds, table, rule) for rule in table.rules]
            expectations += [_of_type(kinds, column, types) for column, types in table.types.items()]
            result = run(table.name, _with_flags(table), expectations)
            found = _findings(table.name, result, table.rows.height)
            _compare(table, found)
            findings += found
        facts = pl.DataFrame({bound.name: [float(bound.value)] for bound in bounds})
        expectations = [
            kinds.ExpectColumnValuesToBeBetween(
                column=bound.name,
                min_value=bound.low,
                max_value=bound.high,
                description=bound.description,
                meta={"name": bound.name, "column": bound.name},
            )
            for bound in bounds
        ]
        findings += _findings("dataset", run("dataset", facts.to_pandas(), expectations), 1)
        context.build_data_docs(site_names=["pages"])
        replace_folder(built, pages)
    return findings


def _of_rule(kinds: Any, table: TableToJudge, rule: RowRule) -> Any:
    if rule.flag or rule.expectation == "ExpectColumnValuesToNotBeNull":
        looked_at = table.rows.height
    else:
        looked_at = len(table.rows[rule.column].drop_nulls().drop_nans())
    # The tolerance is a share of all rows, Great Expectations' `mostly` one of the values that are there.
    mostly = 1.0 if looked_at == 0 else max(0.0, 1.0 - table.tolerated_rows / looked_at)
    return getattr(kinds, rule.expectation)(
        column=rule.looks_at,
        mostly=mostly,
        description=f"No row where {rule.reason.partition(' (')[0]}",
        meta={"name": rule.name, "column": rule.column},
        **({"value_set": [True]} if rule.flag else dict(rule.arguments)),
    )


def _of_type(kinds: Any, column: str, types: tuple[str, ...]) -> Any:
    shown = {
        "description": f"{column} is of type {' or '.join(types)}",
        "meta": {"name": f"{column}_type", "column": column},
    }
    if len(types) == 1:  # the list form knows pandas 3's `str` by no name
        return kinds.ExpectColumnValuesToBeOfType(column=column, type_=types[0], **shown)
    return kinds.ExpectColumnValuesToBeInTypeList(column=column, type_list=list(types), **shown)


def _with_flags(table: TableToJudge) -> Any:
    """The table as pandas has it: plain columns, and the flags of the rules that need one."""
    plain = [name for name, type_ in table.rows.schema.items() if not type_.is_nested()]
    flags = [(~rule.bad.fill_null(False)).alias(rule.looks_at) for rule in table.rules if rule.flag]
    return table.rows.select(*plain, *flags).to_pandas()


def _findings(table: Table, result: Any, rows: int) -> list[Finding]:
    findings = []
    for one in result.results:
        config = one.expectation_config
        if one.exception_info.get("raised_exception") or any(
            isinstance(info, dict) and info.get("raised_exception") for info in one.exception_info.values()
        ):
            raise SegueError(
                f"Great Expectations could not evaluate {config.meta['name']}: {one.exception_info}"
            )
        findings.append(
            Finding(
                table=table,
                name=config.meta["name"],
                expectation=config.type,
                column=config.meta["column"],
                description=config.description or "",
                success=bool(one.success),
                rows=rows,
                unexpected=int(one.result.get("unexpected_count") or 0),
            )
        )
    return sorted(findings, key=lambda finding: finding.name)


def _compare(table: TableToJudge, findings: Sequence[Finding]) -> None:
    counted = {finding.name: finding.unexpected for finding in findings}
    for rule in table.rules:
        quarantined = int(table.rows.select(rule.bad.fill_null(False).sum()).item())
        if quarantined != counted[rule.name]:
            raise SegueError(
                f"{table.name}: the rule {rule.name} finds {quarantined} rows in polars and "
                f"{counted[rule.name]} in Great Expectations: one of the two is wrong, "
                "please report it with the table's first rows"
            )
