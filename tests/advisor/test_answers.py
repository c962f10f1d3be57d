"""Answers from a file, from options, from a person; and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segue.advisor.answers import REQUIRED, read_answers
from segue.errors import ConfigurationError
from tests.advisor.firms import MID_SIZE


def written(folder: Path, text: str | None = None) -> Path:
    path = folder / "answers.yaml"
    path.write_text(yaml.safe_dump(MID_SIZE) if text is None else text)
    return path


def test_options_go_over_the_file(tmp_path: Path) -> None:
    found = read_answers(written(tmp_path), ["monthly_users=5", "skills=research"])
    assert (found.monthly_users, found.skills, found.items) == (5, "research", MID_SIZE["items"])


def test_a_person_is_asked_for_what_is_missing_until_it_is_sound(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    replies = iter(["plenty", "0", "9"])

    def ask(name: str, question: str) -> str:
        asked.append((name, question))
        return next(replies)

    path = written(tmp_path, yaml.safe_dump({k: v for k, v in MID_SIZE.items() if k != "months"}))
    assert read_answers(path, ask=ask).months == 9
    assert [name for name, _ in asked] == ["months"] * 3
    assert asked[0][1] == "Months until it must have paid off"
    assert "number" in asked[1][1]
    assert "greater than 0" in asked[2][1]
    assert "number" not in asked[2][1]  # only the last fault is told


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        (
            "monthly_users: -5\n",
            [],
            r"answers\.yaml: monthly_users: .*greater than 0.*it is -5.*Users a month",
        ),
        (
            "mothly_users: 5\n",
            [],
            r"answers\.yaml: there is no answer 'mothly_users'; answers: monthly_users",
        ),
        ("", ["skills=wizards"], r"--answer skills=wizards: skills: .*'basic'"),
        ("", ["skills"], r"--answer skills: write it as name=value"),
        ("- 1\n", [], r"must be a mapping of answers"),
        ("a: [1\n", [], r"is no valid YAML"),
        ("# nothing yet\n", [], r"is empty: write your answers there"),
        ("monthly_budget: .inf\n", [], r"monthly_budget: .*finite"),
    ],
)
def test_a_wrong_answer_is_named_with_what_it_means(
    tmp_path: Path, text: str, options: list[str], told: str
) -> None:
    whole = yaml.safe_dump(MID_SIZE)
    path = written(tmp_path, text if text.startswith(("-", "a:", "#")) else whole + text)
    with pytest.raises(ConfigurationError, match=told):
        read_answers(path, options)


def test_all_missing_answers_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_answers(None)
    assert all(name in str(caught.value) for name in REQUIRED)
    with pytest.raises(ConfigurationError, match="is missing: write your answers there"):
        read_answers(tmp_path / "absent.yaml")
