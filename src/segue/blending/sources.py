"""Who proposed an item of a list that two paths made, and at which place: one text, as answers and exposures carry it.

    cascade@3                 the cascade's third
    cascade@3+generative@1    the cascade's third and the generative path's first
    generative@1+cascade@4    interleaved: the first name is the item's team, whose clicks it counts for
    neither:cascade@9         interleaved: proposed by the cascade, counts for nobody

Places count from 1. Only in lists of the path ``interleaved`` does the order of the names say anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from segue.errors import DataError

NEITHER: Final = "neither:"
_ONE = re.compile(r"([a-z_]+)@([1-9][0-9]*)")


def written(places: Mapping[str, int]) -> str:
    """The text of an item that has these ``places`` (from 1) in the proposers' lists, in the order given."""
    return "+".join(f"{name}@{place}" for name, place in places.items())


def places_of(source: str) -> dict[str, int]:
    """Each proposer's place for the item, from 1, in the order written. Raises DataError for any other text."""
    found = {}
    for part in source.removeprefix(NEITHER).split("+"):
        match = _ONE.fullmatch(part)
        if match is None:
            raise DataError(
                f"source {source!r} tells no places: it should look like cascade@3+generative@1, "
                "as blended and interleaved lists have them"
            )
        found[match[1]] = int(match[2])
    return found


def proposers_of(source: str) -> str:
    """Who proposed the item, without places: ``cascade+generative``. Raises DataError as :func:`places_of`."""
    return "+".join(sorted(places_of(source)))


def team_of(source: str) -> str | None:
    """For whom a click on an item of an interleaved list counts; None: for nobody. Raises DataError as :func:`places_of`."""
    first = next(iter(places_of(source)))
    return None if source.startswith(NEITHER) else first
