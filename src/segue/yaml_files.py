"""Reading YAML that a person wrote: whatever is wrong with a file is one ConfigurationError that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from segue.errors import ConfigurationError


def parse_yaml(text: str) -> Any:
    """The value that ``text`` is. Raises ValueError where it is none, saying what is wrong.

    A scalar that looks like a date and is none (2024-02-30), or a number that is too long, is a bare ValueError of the parser's,
    and what is nested too deeply a RecursionError.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except ValueError as error:
        raise ValueError(f"{_where(yaml.compose(text, yaml.SafeLoader))}{error}") from error


def _where(node: yaml.Node | None) -> str:
    """The line of the first scalar below ``node`` that cannot be read, and what it is: the parser's bare errors name neither."""
    if isinstance(node, yaml.ScalarNode):
        try:
            yaml.SafeLoader("").construct_object(node)
        except ValueError:
            return f"line {node.start_mark.line + 1}, {node.value[:40]!r}: "
    if isinstance(node, yaml.MappingNode):
        return next(filter(None, (_where(each) for pair in node.value for each in pair)), "")
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_where, node.value)), "")
    return ""


def read_yaml(path: Path, *, absent: str = "") -> Any:
    """What ``path`` holds; None of an empty file. ``absent``: what to do where the file is missing.

    Raises ConfigurationError where it is missing, cannot be read, is no UTF-8 text or no valid YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing{': ' if absent else ''}{absent}") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigurationError(f"{path} is no valid YAML: {error}") from error
