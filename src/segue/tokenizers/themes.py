"""What the items of a prefix have in common, in words: class-based TF-IDF (c-TF-IDF) over their texts.

All items that begin with the same codes are one class, and a term t of class c weighs

    W(t, c) = tf(t, c) · log(1 + A / f(t))

with tf its share of the class's terms, f(t) how often it occurs in all classes of that depth together, and A the mean
number of terms of a class (Grootendorst 2022, BERTopic, arXiv:2203.05794, section 3.3). An item counts a term once,
so that a long description weighs no more than a short one. Terms are the words of title and text, without stop words
and numbers, and whole categories ("Film-Noir" is one term).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.schema import Catalogue
from segue.tokenizers.agreement import prefix_groups
from segue.tokenizers.registry import Codes

TABLE = "themes.parquet"
SCHEMA: dict[str, pl.DataType] = {
    "prefix": pl.List(pl.Int32),
    "items": pl.Int64(),
    "train_count": pl.Int64(),  # events of the training part
    "words": pl.List(pl.String),
    "weights": pl.List(pl.Float64),
    "examples": pl.List(
        pl.Struct({Catalogue.ITEM: pl.String, Catalogue.TITLE: pl.String, Catalogue.IMAGE: pl.String})
    ),
}
_WORD = re.compile(r"[^\W\d_]\w*(?:[-'’]\w+)*")  # no numbers: a year says little of a theme
_POSSESSIVE = re.compile(r"['’]s$")
_SHORTEST = 2  # letters
_SHARED_BY = 2  # items; what one item alone says is no theme of several
_SHARE = 0.05  # of the items with a text; what fewer share is a coincidence in a large class

Terms = list[list[str]]  # of each item, every term once


@dataclass(frozen=True, slots=True)
class Theme:
    """Keywords, heaviest first; none where the items have no text."""

    words: tuple[str, ...]
    weights: tuple[float, ...]


def item_terms(items: pl.DataFrame) -> tuple[Terms, dict[str, str]]:
    """The terms of each row of an item table, case-folded, and how terms that are categories are written.

    Columns that the table lacks, and nulls, are empty.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    def column(name: str) -> list[Any]:
        return items[name].to_list() if name in items.columns else [None] * items.height

    written: dict[str, str] = {}
    terms: Terms = []
    for title, text, categories in zip(
        column(Catalogue.TITLE), column(Catalogue.TEXT), column(Catalogue.CATEGORIES), strict=True
    ):
        found: dict[str, None] = {}
        for label in categories or ():
            if label and (label := " ".join(label.split())):
                written.setdefault(label.casefold(), label)
                found[label.casefold()] = None
        for word in _WORD.findall(f"{title or ''} {text or ''}"):
            word = _POSSESSIVE.sub("", word).casefold()
            if len(word) >= _SHORTEST and word not in ENGLISH_STOP_WORDS:
                found[word] = None
        terms.append(list(found))
    return terms, written


def class_themes(terms: Terms, groups: npt.NDArray[np.int64], words: int) -> list[Theme]:
    """The theme of each group 0 … G - 1, at most ``words`` long; ``groups`` [N] is each item's.

    Of n items with a text, only terms count that a twentieth of them share, log2(n) and two of them at least; where
    there is none, those of two items, and where the items share nothing, any. Ties go by the alphabet, so the themes
    are the same on every run.
    """
    import scipy.sparse
    from sklearn.feature_extraction.text import CountVectorizer

    count = int(groups.max(initial=-1)) + 1
    nothing = Theme((), ())
    if not any(terms):
        return [nothing] * count
    vectorizer = CountVectorizer(analyzer=_as_they_are, binary=True, dtype=np.int64)
    by_item = vectorizer.fit_transform(terms)
    names = vectorizer.get_feature_names_out().tolist()
    of_class = scipy.sparse.csr_array(
        (np.ones(len(terms), dtype=np.int64), (groups, np.arange(len(terms)))), shape=(count, len(terms))
    )
    by_class = scipy.sparse.csr_array(of_class @ by_item)
    by_class.sort_indices()
    sizes = by_class.sum(axis=1)
    frequency = by_class.sum(axis=0)
    idf = np.log1p(sizes.sum() / count / frequency)
    with_text = np.bincount(groups, weights=[bool(own) for own in terms], minlength=count)
    themes = []
    for group in range(count):
        low, high = int(by_class.indptr[group]), int(by_class.indptr[group + 1])
        columns, counts = by_class.indices[low:high], by_class.data[low:high]
        texts = max(float(with_text[group]), 1.0)
        for least in (max(_SHARED_BY, _SHARE * texts, math.log2(texts)), _SHARED_BY):
            if (counts >= least).any():
                columns, counts = columns[counts >= least], counts[counts >= least]
                break
        # Rounded before the sort: the last bits of a logarithm must not order terms.
        weights = np.round(counts * idf[columns] / max(int(sizes[group]), 1), 6)
        # The vectorizer's terms are in alphabetical order, so a column's number breaks ties.
        best = np.lexsort((columns, -weights))[:words]
        themes.append(Theme(tuple(names[column] for column in columns[best]), tuple(weights[best].tolist())))
    return themes


def prefix_themes(
    items: pl.DataFrame, codes: Codes, level_sizes: Sequence[int], *, words: int, examples: int
) -> pl.DataFrame:
    """One row a prefix in use of every length (columns: :data:`SCHEMA`), shorter ones first, then by codes.

    ``items`` and ``codes`` [N, L] are aligned; ``examples`` are the items of the prefix with the most events in the
    training part, ties by item id.
    """
    prefixes = codes[:, : len(level_sizes) - 1]
    groups = prefix_groups(prefixes)
    terms, written = item_terms(items)
    counts = items["train_count"].to_numpy().astype(np.int64)
    ids = np.asarray(items[Catalogue.ITEM].to_list(), dtype=np.str_)
    by_popularity = np.lexsort((ids, -counts))
    shown = {
        name: items[name].to_list() if name in items.columns else [None] * items.height
        for name in (Catalogue.ITEM, Catalogue.TITLE, Catalogue.IMAGE)
    }
    rows: list[dict[str, Any]] = []
    for depth in range(prefixes.shape[1]):
        of_item = groups[:, depth]
        themes = class_themes(terms, of_item, words)
        for group, members in enumerate(_members(of_item, by_popularity, len(themes))):
            rows.append(
                {
                    "prefix": prefixes[members[0], : depth + 1].tolist(),
                    "items": len(members),
                    "train_count": int(counts[members].sum()),
                    "words": [written.get(word, word) for word in themes[group].words],
                    "weights": list(themes[group].weights),
                    "examples": [
                        {name: values[row] for name, values in shown.items()} for row in members[:examples]
                    ],
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA)


def _members(
    groups: npt.NDArray[np.int64], order: npt.NDArray[np.int64], count: int
) -> list[npt.NDArray[np.int64]]:
    """The rows of each group, in the order of ``order``."""
    sorted_rows = order[np.argsort(groups[order], kind="stable")]
    return np.split(sorted_rows, np.cumsum(np.bincount(groups, minlength=count))[:-1])


def _as_they_are(terms: list[str]) -> list[str]:
    return terms
