"""The table: the three kinds of firm, ties, vetoes, and which single factor turns the advice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from segue.advisor.framework import Factor, Finding, Framework, Level, Strategy, load_framework, recommend

TABLE = load_framework()
levels = st.fixed_dictionaries({factor: st.sampled_from([*Level, None]) for factor in Factor})


def found(given_levels: dict[Factor, Level | None]) -> dict[Factor, Finding]:
    return {factor: Finding(level=level, told="as stated") for factor, level in given_levels.items()}


def advised(given_levels: dict[Factor, Level | None]) -> Strategy:
    return recommend(found(given_levels), TABLE).strategy


@pytest.mark.parametrize("firm", ["large_platform", "mid_size", "traditional"])
def test_each_kind_of_firm_comes_out_as_the_table_says(firm: str) -> None:
    row = TABLE.firms[firm]
    recommendation = recommend(found(dict(row.levels)), TABLE)
    assert recommendation.strategy is row.advice
    assert len(recommendation.decisive) == 6
    for vote in recommendation.votes:
        assert vote.because == TABLE.factors[vote.factor].levels[row.levels[vote.factor]].because
    wanted = {
        "large_platform": Strategy.REPLACEMENT, "mid_size": Strategy.FUSION, "traditional": Strategy.GRADUAL,
    }  # fmt: skip
    assert row.advice is wanted[firm]


def test_one_factor_turns_the_advice_where_a_veto_or_a_majority_says_so() -> None:
    large = dict(TABLE.firms["large_platform"].levels)
    vetoing = {veto.factor for veto in TABLE.vetoes if veto.strategy is Strategy.REPLACEMENT}
    assert vetoing == {Factor.MATURITY, Factor.SKILLS, Factor.RISK, Factor.COST}
    for factor in Factor:
        turned = advised({**large, factor: Level.LOW})
        # Scale and time are outvoted; what a veto is about is not.
        assert turned is (Strategy.GRADUAL if factor in vetoing else Strategy.REPLACEMENT)
    half = {**large, Factor.SCALE: Level.MEDIUM, Factor.TIME: Level.MEDIUM}
    assert advised(half) is Strategy.REPLACEMENT
    assert advised({**half, Factor.COST: Level.MEDIUM}) is Strategy.FUSION  # three to three: the cautious one


def test_without_readiness_nothing_but_gradual_is_left() -> None:
    for level in Level:
        rest: dict[Factor, Level | None] = dict.fromkeys(Factor, level)
        assert advised({**rest, Factor.MATURITY: Level.LOW}) is Strategy.GRADUAL


def test_a_tie_is_told() -> None:
    split = dict.fromkeys(Factor, Level.HIGH) | dict.fromkeys(
        (Factor.SCALE, Factor.TIME, Factor.COST), Level.MEDIUM
    )
    recommendation = recommend(found(dict(split)), TABLE)
    assert recommendation.tie == (Strategy.FUSION, Strategy.REPLACEMENT)
    assert recommendation.strategy is Strategy.FUSION


def test_who_knows_nothing_is_told_to_go_gradually() -> None:
    recommendation = recommend({}, TABLE)
    assert recommendation.strategy is Strategy.GRADUAL
    assert all(vote.votes is None and vote.told for vote in recommendation.votes)


@given(levels)
def test_what_is_recommended_is_never_vetoed_and_has_most_votes(
    given_levels: dict[Factor, Level | None],
) -> None:
    """Against the rule written out by hand."""
    recommendation = recommend(found(given_levels), TABLE)
    votes = [
        TABLE.factors[factor].levels[level].votes
        for factor, level in given_levels.items()
        if level is not None
    ]
    allowed = [
        strategy
        for strategy in Strategy
        if not any(
            veto.strategy is strategy and given_levels[veto.factor] is veto.level for veto in TABLE.vetoes
        )
    ]
    expected = max(allowed, key=lambda strategy: (votes.count(strategy), -list(Strategy).index(strategy)))
    assert recommendation.strategy is expected


def test_a_table_that_leaves_nothing_to_recommend_is_refused() -> None:
    raw = TABLE.model_dump(mode="json")
    veto = {"strategy": "gradual_migration", "factor": "time", "level": "low", "because": "x"}
    with pytest.raises(ValidationError, match="most cautious"):
        Framework.model_validate(raw | {"vetoes": [veto]})
    with pytest.raises(ValidationError, match="factors must be exactly"):
        Framework.model_validate(raw | {"factors": {}})
