"""Themes of prefixes: planted topics are found, and nothing is made up where there is no text."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.tokenizers.themes import class_themes, item_terms, prefix_themes

COLUMNS = {
    "item_id": pl.String,
    "title": pl.String,
    "text": pl.String,
    "categories": pl.List(pl.String),
    "image_path": pl.String,
    "train_count": pl.Int64,
}


def table(rows: list[tuple[str | None, str | None, list[str] | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (f"i{number:02d}", title, text, categories, None, number)
            for number, (title, text, categories) in enumerate(rows)
        ],
        schema=COLUMNS,
        orient="row",
    )


SPACE = ("Rocket", "Orbit", "Comet")
KITCHEN = ("Soup", "Bread", "Stew")
CATALOGUE = table(
    [(f"The {SPACE[n % 3]} {n}", f"astronauts and a shared planet{n}", ["Sci-Fi"]) for n in range(6)]
    + [(f"A {KITCHEN[n % 3]} {n}", f"cooks and a shared recipe{n}", ["Cooking Show"]) for n in range(6)]
)
CODES = np.array([[0, n % 2, n // 2] for n in range(6)] + [[3, 1, n] for n in range(6)])


def test_planted_topics_are_told_apart() -> None:
    themes = prefix_themes(CATALOGUE, CODES, (4, 2, 8), words=2, examples=2)
    assert themes["prefix"].to_list() == [[0], [3], [0, 0], [0, 1], [3, 1]]
    assert set(themes["words"][0]) == {"astronauts", "Sci-Fi"}
    assert set(themes["words"][1]) == {"cooks", "Cooking Show"}
    assert themes["items"].to_list() == [6, 6, 3, 3, 6]
    assert themes["train_count"].to_list() == [15, 51, 6, 9, 51]
    # "shared" is in every item: of all words it weighs least, and comes last.
    every = prefix_themes(CATALOGUE, CODES, (4, 2, 8), words=20, examples=0)
    assert every["words"][0].to_list()[-1] == "shared"
    assert not {"the", "and", "planet0"} & set(every["words"][0])


def test_examples_are_the_most_popular_items() -> None:
    themes = prefix_themes(CATALOGUE, CODES, (4, 2, 8), words=2, examples=2)
    assert [entry["item_id"] for entry in themes["examples"][0]] == ["i05", "i04"]
    tied = CATALOGUE.with_columns(train_count=pl.lit(1, dtype=pl.Int64))
    themes = prefix_themes(tied, CODES, (4, 2, 8), words=2, examples=2)
    assert [entry["item_id"] for entry in themes["examples"][1]] == ["i06", "i07"]


def test_the_weight_is_that_of_the_formula() -> None:
    # Two classes of two items; terms: class 0 a, a, b, b; class 1 a, a, c, c. A = 4.
    terms = [["a", "b"], ["a", "b"], ["a", "c"], ["a", "c"]]
    first, second = class_themes(terms, np.array([0, 0, 1, 1]), 5)
    assert (first.words, second.words) == (("b", "a"), ("c", "a"))
    np.testing.assert_allclose(
        first.weights, [0.5 * math.log(1 + 4 / 2), 0.5 * math.log(1 + 4 / 4)], atol=1e-6
    )


def test_what_one_item_alone_says_is_no_theme_of_several() -> None:
    terms = [["space", "zebra"], ["space"], ["bread"], ["soup"]]
    shared, apart = class_themes(terms, np.array([0, 0, 1, 1]), 5)
    assert shared.words == ("space",)
    assert apart.words == ("bread", "soup")  # they share nothing: any, by the alphabet


def test_a_large_class_asks_for_more_than_a_coincidence() -> None:
    terms = [["drama", f"w{n}"] for n in range(40)]
    terms[0].append("twice")
    terms[1].append("twice")
    assert class_themes(terms, np.zeros(40, dtype=np.int64), 5)[0].words == ("drama",)


def test_items_without_text_have_no_theme_and_break_nothing() -> None:
    bare = table([(None, None, None), ("", "", []), ("12 7", None, ["", "  "])])
    codes = np.array([[0, 0], [0, 1], [1, 0]])
    themes = prefix_themes(bare, codes, (2, 4), words=3, examples=1)
    assert themes["words"].to_list() == [[], []]
    assert themes["items"].to_list() == [2, 1]
    lacking = bare.select("item_id", "train_count")
    assert prefix_themes(lacking, codes, (2, 4), words=3, examples=1)["words"].to_list() == [[], []]
    mixed = table([(None, None, None), ("Comet", None, None)])
    found = prefix_themes(mixed, np.array([[0, 0], [1, 0]]), (2, 4), words=3, examples=1)
    assert found["words"].to_list() == [[], ["comet"]]


def test_terms_are_words_and_whole_categories() -> None:
    terms, written = item_terms(
        table([("Noah's Ark-Builders of 1999", "The ark and Éclair", ["Film-Noir", "Slow  TV"])])
    )
    assert terms == [["film-noir", "slow tv", "noah", "ark-builders", "ark", "éclair"]]
    assert written == {"film-noir": "Film-Noir", "slow tv": "Slow TV"}


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4), min_size=1, max_size=12), st.data()
)
@settings(max_examples=40, deadline=None)
def test_themes_do_not_depend_on_the_order_of_the_items(terms: list[list[str]], data: st.DataObject) -> None:
    groups = np.array([0, *(data.draw(st.integers(0, 1)) for _ in terms[1:])])
    if groups.max() == 0:
        groups = np.zeros(len(terms), dtype=np.int64)
    order = np.array(data.draw(st.permutations(range(len(terms)))))
    shuffled = class_themes([terms[row] for row in order], groups[order], 4)
    assert shuffled == class_themes(terms, groups, 4)
    for group, theme in enumerate(shuffled):
        own = {term for row, found in enumerate(terms) if groups[row] == group for term in found}
        assert set(theme.words) <= own
        assert bool(theme.words) == bool(own)
        assert list(theme.weights) == sorted(theme.weights, reverse=True)
