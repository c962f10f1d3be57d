from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segue.advisor.answers import read_answers
from segue.benchmarking.chosen import read_settings
from segue.errors import ConfigurationError
from segue.params import read_sections
from segue.simulation.settings import load_settings
from segue.yaml_files import read_yaml


def test_a_file_is_read_and_an_empty_one_is_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: Käse\n", encoding="utf-8")
    assert read_yaml(file) == {"name": "Käse"}
    file.write_text("", encoding="utf-8")
    assert read_yaml(file) is None


READERS: list[Callable[[Path], Any]] = [
    read_yaml,
    read_sections,
    read_settings,
    load_settings,
    read_answers,
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"a\.yaml is missing"),
        ("name: Käse".encode("latin-1"), r"a\.yaml is no UTF-8 text: save it as UTF-8"),
        (b"a: b: c", r"a\.yaml is no valid YAML: .*line 1"),
        (b"b: 2\na: [1, 2024-02-30]", r"a\.yaml is no valid YAML: line 2, '2024-02-30': day"),
        (b"a: !!int abc", r"a\.yaml is no valid YAML: line 1, 'abc': "),
        (b"a: &a [*a, 2024-02-30]", r"a\.yaml is no valid YAML: line 1, '2024-02-30': day"),
        (b"a: !!bool perhaps", r"a\.yaml is no valid YAML: line 1, 'perhaps': "),
        (b"[" * 5000, r"a\.yaml is no valid YAML: it is nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_by_all_who_read_one(
    tmp_path: Path, reader: Callable[[Path], Any], content: bytes | None, said: str
) -> None:
    file = tmp_path / "a.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"(?s){said}"):
        reader(file)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_is_no_file(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        reader(tmp_path)


def test_a_missing_file_is_said_with_its_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is missing: write it"):
        read_yaml(tmp_path / "a.yaml", absent="write it")
