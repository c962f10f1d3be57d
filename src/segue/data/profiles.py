"""``segue init``: look at the user's own files, guess what is what, and write a commented profile."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from segue.artifacts import write_text
from segue.bases import KEEPABLE, write_base
from segue.data.inference import OPTIONS, Look, look_at_catalogue, look_at_interactions
from segue.data.sniffing import sniff
from segue.errors import ConfigurationError
from segue.params import SECTIONS, read_sections
from segue.schema import Catalogue, Interactions
from segue.workspace import Workspace

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")


def init_profile(
    workspace: Workspace,
    interactions: str | Path,
    catalogue: str | Path | None = None,
    name: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
    activate: bool = True,
) -> list[Path]:
    """Write ``profiles/<name>.yaml`` and ``bases/<name>.json`` for the user's file or files; return what was
    written, the profile first.

    ``columns`` maps our names (user_id, item_id, timestamp, action) to the file's where guessing them fails;
    "none" as timestamp says that there is none and the rows of a user stand in order of time. ``separator`` is
    that of the interactions where guessing it fails. ``activate`` adds the dataset to ``datasets`` of params.yaml.

    Raises DataError where a file cannot be read, or a column that is needed could be none or several of the
    file's; the message names them and the option to pass. Raises ConfigurationError for a bad or taken name, and where
    params.yaml has no list of datasets that can be extended. Then nothing is written. A base of that name stays as it is.
    """
    chosen_name = _check_name(workspace, name, str(interactions))
    if separator == "":
        raise ConfigurationError("--separator is empty: leave it away to have it guessed")
    given = dict(columns or {})
    if unknown := sorted(set(given) - set(OPTIONS)):
        raise ConfigurationError(f"columns may name {', '.join(OPTIONS)}, not {unknown[0]!r}")
    items = None if catalogue is None else sniff(str(catalogue))
    events = look_at_interactions(sniff(str(interactions), separator), given, items)
    described = None if items is None else look_at_catalogue(items, events)
    ordered = Interactions.TIMESTAMP not in events.source.columns
    activated = _with_dataset(workspace.params_file, chosen_name) if activate else None
    profile = workspace.profile_file(chosen_name)
    write_text(profile, _render(workspace, chosen_name, events, described, ordered=ordered))
    written = [profile]
    if not workspace.base_file(chosen_name).exists():
        write_base(workspace, chosen_name, dict.fromkeys(KEEPABLE))
        written.append(workspace.base_file(chosen_name))
    if activated is not None:
        write_text(workspace.params_file, activated)
        written.append(workspace.params_file)
    return written


def _check_name(workspace: Workspace, name: str | None, path: str) -> str:
    if name is None:
        stem = path.rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0]
        name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name for a dataset: use a-z, 0-9 and hyphens (at most 100, none first), such as "
            "`--name my-shop`"
        )
    if (taken := workspace.root / f"{name}.yaml") in (workspace.params_file, workspace.root / "dvc.yaml"):
        raise ConfigurationError(
            f"the name {name!r} is taken: {taken.name} is the workspace's own; give the dataset another `--name`, "
            "such as `--name my-shop`"
        )
    if workspace.profile_file(name).exists():
        raise ConfigurationError(
            f"{workspace.profile_file(name)} exists already: remove it, or give the dataset another `--name`"
        )
    return name


def _render(workspace: Workspace, name: str, events: Look, items: Look | None, *, ordered: bool) -> str:
    lines = [
        "# Written by `segue init` from the first rows of your files: read it, mend what it guessed wrong,",
        "# and run",
        f"#   segue run --profile {name}",
        "# Every section is listed; what is not overridden here comes from params.yaml.",
        "",
        "data:",
        f"  title: {_quoted(name)}",
        '  terms: ""  # under which terms you may use the data; shown on the reports',
        "  reader: tables",
    ]
    if ordered:
        lines.append("  ordered: true  # no timestamps: the rows of a user stand in order of time")
    lines += ["  interactions:  # one row an event", *_render_table(workspace, events, Interactions.USER)]
    lines += _offered_context(events)
    if items is None:
        lines.append(
            "  # catalogue: none given, so the items are those of the interactions; with titles, texts and"
        )
        lines.append("  # categories the semantic IDs say more: add a table as above, with its own `columns`")
    else:
        lines += ["  catalogue:  # one row an item", *_render_table(workspace, items, Catalogue.ITEM)]
    lines += [
        "",
        "validation: {}  # such as {min_weight: 1, max_weight: 5, on_bad_rows: stop}",
        "splits: {}  # k_core: 5 drops users and items with fewer than five events",
    ]
    lines += [f"{section}: {{}}" for section in SECTIONS if section not in ("data", "validation", "splits")]
    return "\n".join(lines) + "\n"


def _offered_context(look: Look) -> list[str]:
    """A column that nothing uses as a context feature, in a comment: whether it is known at a request, we cannot see."""
    used = set(look.source.columns.values())
    left = [column for column in look.sample.columns if column not in used]
    for column in left:
        name = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
        if name[:1].isalpha():
            feature = "kind: category" if name == column else f"kind: category, column: {_quoted(column)}"
            return [
                "  # what is known at the moment of a request may be a context feature (docs/models.md), such as",
                f"  # context: {{{name}: {{{feature}}}}}",
            ]
    return []


def _render_table(workspace: Workspace, look: Look, first: str) -> list[str]:
    source = look.source
    lines = [
        f"    path: {_quoted(_relative(workspace, str(source.path)))}  # a file, folder, glob or fsspec URL"
    ]
    if source.format == "csv":
        lines += [
            "    format: csv",
            f"    separator: {_quoted(source.separator)}",
            f"    encoding: {source.encoding}",
        ]
        if not source.has_header:
            lines.append('    has_header: false  # so the columns are "1", "2", …')
    mapped = set(source.columns.values())
    if left := [column for column in look.sample.columns if column not in mapped]:
        lines.append(f"    # not used: {', '.join(_quoted(column) for column in left)}")
    lines += [f"    # {_in_a_comment(doubt)}" for doubt in look.doubts]
    lines.append("    columns:  # our name: your name")
    for ours, theirs in source.columns.items():
        examples = look.sample[theirs].drop_nulls().head(2).to_list()
        shown = ", ".join(_in_a_comment(str(example)[:30]) for example in examples)
        lines.append(
            f"      {ours}: {_quoted(theirs)}  # such as {shown}"
            if shown
            else f"      {ours}: {_quoted(theirs)}"
        )
    if {Interactions.TIMESTAMP, Catalogue.CREATED_AT} & set(source.columns):
        lines.append(f"    timestamp_unit: {source.timestamp_unit}  # s, ms, us since 1970, or iso")
    if Catalogue.CATEGORIES in source.columns:
        lines.append(f"    category_separator: {_quoted(source.category_separator)}")
    if source.title_holds_year:
        lines.append(
            '    title_holds_year: true  # "Heat (1995)" becomes title and year; false leaves titles as they are'
        )
    assert first in source.columns
    return lines


def _relative(workspace: Workspace, path: str) -> str:
    if "://" in path:
        return path
    whole = Path(path).expanduser().resolve()
    root = workspace.root.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _quoted(text: str) -> str:
    """As a YAML string on one line, whatever is in it."""
    dumped: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=sys.maxsize)
    return dumped.strip()


def _in_a_comment(text: str) -> str:
    """On one line, of characters that YAML allows: cells of files hold anything."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _with_dataset(params_file: Path, name: str) -> str | None:
    """The file's text with ``name`` added to ``datasets``, its comments and everything else as they are; None where
    it stands there already. Raises ConfigurationError where that is beyond us."""
    by_hand = ConfigurationError(
        f"{params_file} has no list `datasets` that could be extended: add {_quoted(name)} to it by hand"
    )
    before = read_sections(params_file)
    if not isinstance(before.get("datasets"), list):
        raise by_hand
    if name in before["datasets"]:
        return None
    # YAML takes a bare 2024 for a number, and a bare no for false.
    after = _extended(
        params_file.read_text(encoding="utf-8"), name if yaml.safe_load(name) == name else _quoted(name)
    )
    try:
        found = yaml.safe_load(after)
    except yaml.YAMLError as error:
        raise by_hand from error
    if found != {**before, "datasets": [*before["datasets"], name]}:
        raise by_hand
    return after


def _extended(text: str, name: str) -> str:
    """``name`` after what looks like the last of ``datasets``, in brackets or behind dashes."""
    if flow := re.search(r"^datasets:[ \t]*\[([^\]]*)\]", text, re.MULTILINE):
        names = [one.strip() for one in flow.group(1).split(",") if one.strip()]
        return text[: flow.start()] + f"datasets: [{', '.join([*names, name])}]" + text[flow.end() :]
    block = re.search(
        r"^datasets:[ \t]*(?:#.*)?\n((?:[ \t]*(?:-[ \t].*|#.*)?\n)*[ \t]*-[ \t].*\n?)", text, re.MULTILINE
    )
    if block is None:
        return text
    indent = re.search(r"^([ \t]*)-", block.group(1), re.MULTILINE)
    head = text[: block.end()]
    added = f"{indent.group(1) if indent else ''}- {name}\n"
    return (head if head.endswith("\n") else head + "\n") + added + text[block.end() :]
