"""The names under which strangers' files have our columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from segue.schema import Catalogue, Interactions

# Lower case and without punctuation; an earlier tier beats a later one.
Tiers = tuple[tuple[str, ...], ...]
INTERACTION_NAMES: Final[Mapping[str, Tiers]] = {
    Interactions.USER: (
        ("userid", "user", "useridtoken"),
        (
            "customerid",
            "customer",
            "visitorid",
            "reviewerid",
            "accountid",
            "memberid",
            "clientid",
            "uid",
            "username",
        ),
        ("sessionid",),
    ),
    Interactions.ITEM: (
        ("itemid", "item", "itemidtoken"),
        ("movieid", "productid", "articleid", "trackid", "songid", "bookid", "gameid", "videoid", "newsid"),
        (
            "contentid",
            "businessid",
            "imdbid",
            "asin",
            "parentasin",
            "sku",
            "isbn",
            "product",
            "article",
            "iid",
        ),
        # Last, for beside an id these are its title.
        ("movie", "film", "track", "song", "book", "game", "video", "news", "content"),
    ),
    Interactions.TIMESTAMP: (
        ("timestamp", "timestampfloat"),
        ("ts", "time", "datetime", "eventtime", "unixreviewtime", "unixtime"),
        ("date", "createdat", "tdat", "reviewtime"),
    ),
    Interactions.WEIGHT: (("weight",), ("rating", "ratingfloat", "score", "stars", "overall")),
    Interactions.ACTION: (("action", "actiontype"), ("event", "eventtype", "behavior", "interactiontype")),
}
CATALOGUE_NAMES: Final[Mapping[str, Tiers]] = {
    Catalogue.ITEM: (*INTERACTION_NAMES[Interactions.ITEM], ("id",)),
    Catalogue.TITLE: (("title",), ("name", "movietitle", "productname", "itemname", "prodname", "headline")),
    Catalogue.TEXT: (
        ("text", "description"),
        ("plot", "overview", "summary", "abstract", "synopsis", "body", "detaildesc"),
    ),
    Catalogue.CATEGORIES: (("categories", "genres"), ("category", "genre", "class", "tags", "producttype")),
    Catalogue.YEAR: (("year",), ("releaseyear", "publicationyear")),
    Catalogue.PRICE: (("price",),),
    Catalogue.CREATED_AT: (("createdat",), ("created", "publishedat", "releasedate")),
    Catalogue.IMAGE: (("imagepath",), ("image", "poster", "picture")),
}
# What stands in a column of actions, whatever its name.
ACTIONS: Final = frozenset(
    [
        "view",
        "pageview",
        "impression",
        "click",
        "detail",
        "cart",
        "addtocart",
        "removefromcart",
        "order",
        "purchase",
        "buy",
        "transaction",
        "checkout",
        "like",
        "dislike",
        "favorite",
        "save",
        "bookmark",
        "share",
        "follow",
        "rate",
        "rating",
        "review",
        "play",
        "skip",
        "listen",
        "watch",
        "read",
        "download",
    ]
)


def plain(name: str) -> str:
    """``name`` in lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def by_name(columns: Iterable[str], tiers: Tiers) -> list[str]:
    """The columns of the first tier that has any."""
    for tier in tiers:
        if found := [column for column in columns if plain(column) in tier]:
            return found
    return []


def is_known(name: str) -> bool:
    """Whether some column of ours goes by this name."""
    return any(
        plain(name) in tier
        for names in (INTERACTION_NAMES, CATALOGUE_NAMES)
        for tiers in names.values()
        for tier in tiers
    )
