"""Reading YAML that a person wrote: whatever is wrong with a file is one ConfigurationError that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from segue.errors import ConfigurationError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose bare errors about a scalar (a date that there is not, a number that is too long) are
    its own kind of error and name the line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            if not isinstance(node, yaml.ScalarNode):
                raise
            place = f"line {node.start_mark.line + 1}, {node.value[:40]!r}"
            raise yaml.constructor.ConstructorError(problem=f"{place}: {error}") from error


def parse_yaml(text: str) -> Any:
    """The value that ``text`` is. Raises ValueError where it is none, saying what is wrong."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


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
