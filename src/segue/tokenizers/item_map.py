"""The item map: every item's semantic ID under one codebook. It grows by revisions.

A revision adds or retires items. It never changes the codes or the vector of an item that stays, and never
gives a code to a second item, not even one whose item was retired; an item that comes back gets its own codes
again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.artifacts import read_json, write_json
from segue.canonical import sha256_of
from segue.errors import ArtifactError, BindingError, DataError
from segue.items import Items, ItemVectors
from segue.schema import Catalogue, Split
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.fusion import Bools
from segue.tokenizers.placement import given_out, place
from segue.tokenizers.registry import Codes

if TYPE_CHECKING:
    from segue.protocols import BoundItems

TABLE = "item_map.parquet"
DESCRIPTION = "item_map.json"
ROOM = "room.parquet"
RETIRED = "retired"  # the vectors of retired items, which one that comes back gets again


@dataclass(frozen=True)
class ItemMap:
    """N items, retired ones included. Rows are in the order of the last :meth:`align`, retired items last."""

    codebook_id: str
    level_sizes: tuple[int, ...]  # [L]
    revision: int  # 1, 2, 3, …
    item_ids: list[str]  # [N]
    codes: Codes  # [N, L] int64, no two rows equal
    revision_added: npt.NDArray[np.int32]  # [N]
    retired: Bools  # [N]
    vectors: npt.NDArray[np.float32]  # [N, d] fused
    present: Bools  # [N] the item had a modality of its own
    prefix_capacity: int | None = (
        None  # the codebook's: items that may share a prefix; None: the last level's size
    )

    @classmethod
    def build(
        cls, codebook: Codebook, item_ids: Sequence[str], vectors: npt.NDArray[np.float32], present: Bools
    ) -> ItemMap:
        """Revision 1. Raises DataError for an item named twice, or where the codebook has no room."""
        empty = cls(
            codebook_id=codebook.codebook_id,
            level_sizes=codebook.level_sizes,
            revision=0,
            item_ids=[],
            codes=np.zeros((0, len(codebook.level_sizes)), dtype=np.int64),
            revision_added=np.zeros(0, dtype=np.int32),
            retired=np.zeros(0, dtype=bool),
            vectors=np.zeros((0, codebook.dimensions), dtype=np.float32),
            present=np.zeros(0, dtype=bool),
            prefix_capacity=codebook.prefix_capacity,
        )
        built = empty.insert(codebook, item_ids, vectors, present)
        return built if built.revision else replace(built, revision=1)

    def insert(
        self, codebook: Codebook, item_ids: Sequence[str], vectors: npt.NDArray[np.float32], present: Bools
    ) -> ItemMap:
        """Give the items codes: vectors [M, d], present [M].

        Those already in the map keep their codes and vectors, retired ones among them come back. The next
        revision, or this very map where nothing changed. Raises as :meth:`build` does, and BindingError for
        another codebook.
        """
        return self.revise(codebook, item_ids, vectors, present, retire=())

    def retire(self, item_ids: Sequence[str]) -> ItemMap:
        """The next revision without these items (or this very map where all are retired already).

        Raises DataError for an item that is not in the map.
        """
        if unknown := [item for item in item_ids if item not in self.row_of]:
            raise DataError(
                f"item {unknown[0]!r} cannot be retired: the item map {self.item_map_id} lacks it"
            )
        rows = [self.row_of[item] for item in item_ids]
        retired = self.retired.copy()
        retired[rows] = True
        if (retired == self.retired).all():
            return self
        return replace(self, revision=self.revision + 1, retired=retired)

    def revise(
        self,
        codebook: Codebook,
        item_ids: Sequence[str],
        vectors: npt.NDArray[np.float32],
        present: Bools,
        *,
        retire: Sequence[str],
    ) -> ItemMap:
        """:meth:`insert` and :meth:`retire` as one revision."""
        self.require_codebook(codebook)
        if len(set(item_ids)) != len(item_ids):
            twice, _ = Counter(item_ids).most_common(1)[0]
            raise DataError(
                f"item {twice!r} is to be inserted twice: an item id must be unique in the catalogue"
            )
        shrunk = self.retire(retire) if retire else self
        back = np.array([self.row_of[item] for item in item_ids if item in self.row_of], dtype=np.int64)
        retired = shrunk.retired.copy()
        retired[back] = False
        new = np.array([row for row, item in enumerate(item_ids) if item not in self.row_of], dtype=np.int64)
        if not len(new) and (retired == self.retired).all():
            return self
        revision = self.revision + 1
        new_ids = [item_ids[row] for row in new]
        return replace(
            self,
            revision=revision,
            item_ids=[*self.item_ids, *new_ids],
            codes=np.concatenate([self.codes, place(codebook, vectors[new], new_ids, self.codes)]),
            revision_added=np.concatenate([self.revision_added, np.full(len(new), revision, dtype=np.int32)]),
            retired=np.concatenate([retired, np.zeros(len(new), dtype=bool)]),
            vectors=np.concatenate([self.vectors, vectors[new]]),
            present=np.concatenate([self.present, present[new]]),
        )

    def align(self, items: Items) -> ItemMap:
        """The same map with its active rows in the order of ``items`` and the retired ones after them, by id.

        Raises BindingError where the active items are not exactly ``items``, naming one.
        """
        active = {item for item, retired in zip(self.item_ids, self.retired, strict=True) if not retired}
        for item in items.ids:
            if item not in active:
                raise BindingError(
                    f"item {item!r} of the item table has no code in the item map {self.item_map_id}"
                )
        if extra := sorted(active - set(items.ids)):
            raise BindingError(
                f"item {extra[0]!r} of the item map {self.item_map_id} is not in the item table"
            )
        return self._ordered(items.ids)

    def bound(self) -> BoundItems:
        """What a model binds to: rows are the rows of ``splits/items.parquet``, once the map is aligned with them.

        Retired items have no row, for they have no index.
        """
        import torch

        from segue.protocols import BoundItems

        active = int((~self.retired).sum())
        return BoundItems(
            codebook_id=self.codebook_id,
            level_sizes=self.level_sizes,
            codes=torch.from_numpy(self.codes[:active].copy()),
            vectors=torch.from_numpy(self.vectors[:active].copy()),
            present=torch.from_numpy(self.present[:active].copy()),
            active=torch.ones(active, dtype=torch.bool),
        )

    def require_codebook(self, codebook: Codebook) -> None:
        """Raises BindingError where the map belongs to another codebook."""
        if self.codebook_id != codebook.codebook_id:
            raise BindingError(
                f"the item map (revision {self.revision}) belongs to codebook {self.codebook_id[:12]}, not "
                f"to {codebook.codebook_id[:12]}: keep the two together, or neither (`segue keep`)"
            )

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.item_ids)}

    @cached_property
    def item_map_id(self) -> str:
        """``<codebook>-r<revision>-<hash of all rows>``; the same whatever the order of the rows."""
        order = np.array(sorted(range(len(self.item_ids)), key=self.item_ids.__getitem__), dtype=np.int64)
        digest = hashlib.sha256()
        digest.update(
            sha256_of(
                [
                    self.codebook_id,
                    list(self.level_sizes),
                    self.revision,
                    [self.item_ids[row] for row in order],
                    list(self.vectors.shape),
                    *([] if self.prefix_capacity is None else [self.prefix_capacity]),
                ]
            ).encode()
        )
        for array, kind in (
            (self.codes, "<i8"),
            (self.revision_added, "<i4"),
            (self.retired, "u1"),
            (self.vectors, "<f4"),
            (self.present, "u1"),
        ):
            digest.update(np.ascontiguousarray(array[order].astype(kind)).tobytes())
        return f"{self.codebook_id[:16]}-r{self.revision}-{digest.hexdigest()[:16]}"

    def items_of(self, codes: Codes) -> npt.NDArray[np.int64]:
        """Rows [M] of whole IDs [M, L]; -1 where no item has that ID (retired items are found too)."""
        table = {tuple(row): index for index, row in enumerate(self.codes.tolist())}
        return np.array([table.get(tuple(row), -1) for row in codes.tolist()], dtype=np.int64)

    def room(self) -> pl.DataFrame:
        """``prefix`` (list of L - 1 codes) and ``free``: how many items each prefix in use can still take.

        A prefix that is not listed is unused and can take as many as the last level has codes, or as
        ``prefix_capacity`` allows. Retired items count as taken.
        """
        most = self.level_sizes[-1] if self.prefix_capacity is None else self.prefix_capacity
        keys, counts = given_out(self.codes, self.level_sizes)
        prefixes = np.zeros((len(keys), len(self.level_sizes) - 1), dtype=np.int32)
        for level in range(len(self.level_sizes) - 2, -1, -1):
            keys, prefixes[:, level] = np.divmod(keys, self.level_sizes[level])
        return pl.DataFrame(
            {"prefix": prefixes.tolist(), "free": (most - counts).astype(np.int32)},
            schema={"prefix": pl.List(pl.Int32), "free": pl.Int32},
        )

    def summary(self) -> dict[str, Any]:
        """What ``item_map.json`` holds."""
        added_now = (self.revision_added == self.revision) & (self.revision > 1)
        return {
            "item_map_id": self.item_map_id,
            "codebook_id": self.codebook_id,
            "revision": self.revision,
            "level_sizes": list(self.level_sizes),
            "items": int((~self.retired).sum()),
            "inserted": int(added_now.sum()),  # by this revision, if it is not the first
            "inserted_total": int((self.revision_added > 1).sum()),  # since the codebook was made
            "retired": int(self.retired.sum()),
            **({} if self.prefix_capacity is None else {"prefix_capacity": self.prefix_capacity}),
        }

    def save(self, folder: Path) -> None:
        """Write the map, its room and its vectors. Active items come first, in the order of their
        ``item_index``."""
        folder.mkdir(parents=True, exist_ok=True)
        ordered = self._ordered(
            [item for item, gone in zip(self.item_ids, self.retired, strict=True) if not gone]
        )
        active = int((~ordered.retired).sum())
        pl.DataFrame(
            {
                Split.ITEM_INDEX: [*range(active), *[None] * int(ordered.retired.sum())],
                Catalogue.ITEM: ordered.item_ids,
                "codes": ordered.codes.tolist(),
                "revision_added": ordered.revision_added,
                "retired": ordered.retired,
            },
            schema={
                Split.ITEM_INDEX: pl.Int32,
                Catalogue.ITEM: pl.String,
                "codes": pl.List(pl.Int32),
                "revision_added": pl.Int32,
                "retired": pl.Boolean,
            },
        ).write_parquet(folder / TABLE)
        ordered.room().write_parquet(folder / ROOM)
        ordered._item_vectors(slice(0, active)).save(folder)
        if active < len(ordered.item_ids):
            (folder / RETIRED).mkdir(exist_ok=True)
            ordered._item_vectors(slice(active, None)).save(folder / RETIRED)
        write_json(folder / DESCRIPTION, self.summary())

    @classmethod
    def load(cls, folder: Path) -> ItemMap:
        """Raises ArtifactError where a file is missing or damaged, or is not the one that the id was made
        of."""
        description = read_json(folder / DESCRIPTION)
        try:
            table = pl.read_parquet(folder / TABLE)
            kept = [ItemVectors.load(folder)]
            if table["retired"].any():
                kept.append(ItemVectors.load(folder / RETIRED))
            if not isinstance(description, dict):
                raise TypeError("no object")
            level_sizes = tuple(int(size) for size in description["level_sizes"])
            ids = table[Catalogue.ITEM].to_list()
            if ids != [item for part in kept for item in part.item_ids]:
                raise ValueError("the vectors are of other items")
            codes = np.array(table["codes"].to_list(), dtype=np.int64).reshape(len(ids), len(level_sizes))
            loaded = cls(
                codebook_id=description["codebook_id"],
                level_sizes=level_sizes,
                revision=int(description["revision"]),
                item_ids=ids,
                codes=codes,
                revision_added=table["revision_added"].to_numpy().astype(np.int32),
                retired=table["retired"].to_numpy().astype(bool),
                vectors=np.concatenate([part.vectors for part in kept]).astype(np.float32),
                present=np.concatenate([part.present for part in kept]),
                prefix_capacity=description.get("prefix_capacity"),
            )
            stated = description["item_map_id"]
        except (OSError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(
                f"the item map in {folder} is damaged ({error!r}): run the step item_map again"
            ) from error
        if loaded.item_map_id != stated:
            raise ArtifactError(
                f"the item map in {folder} was changed after it was made: it says {stated}, its content is "
                f"{loaded.item_map_id}; run the step item_map again or restore it"
            )
        return loaded

    def _ordered(self, active_ids: Sequence[str]) -> ItemMap:
        """Rows of the active ids in that order, then the retired ones by id."""
        gone = sorted(item for item, retired in zip(self.item_ids, self.retired, strict=True) if retired)
        rows = np.array([self.row_of[item] for item in (*active_ids, *gone)], dtype=np.int64)
        return replace(
            self,
            item_ids=[self.item_ids[row] for row in rows],
            codes=self.codes[rows],
            revision_added=self.revision_added[rows],
            retired=self.retired[rows],
            vectors=self.vectors[rows],
            present=self.present[rows],
        )

    def _item_vectors(self, rows: slice) -> ItemVectors:
        return ItemVectors(
            vectors=self.vectors[rows], present=self.present[rows], item_ids=self.item_ids[rows]
        )


def bound_items(folder: Path) -> BoundItems:
    """What a model binds to, from an item map's folder. Raises ArtifactError as :meth:`ItemMap.load` does."""
    return ItemMap.load(folder).bound()
