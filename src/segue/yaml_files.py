"""Reading a YAML file that a person wrote: whatever is wrong with it is one ConfigurationError that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from segue.errors import ConfigurationError


def read_yaml(path: Path, *, absent: str = "") -> Any:
    """What ``path`` holds; None of an empty file. ``absent``: what to do where the file is missing.

    Raises ConfigurationError where it is missing, cannot be read, is no UTF-8 text or no valid YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing{': ' if absent else ''}{absent}") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is no valid YAML: {error}") from error
