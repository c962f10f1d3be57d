"""Who was erased: ``state/<dataset>/erased.json``, which ingestion obeys.

The file names nobody: it holds, for each online store that the dataset ever had, the store's secret and the keyed
hashes of its erased users. It outlives the store, so that a user whose events are still in a source does not
come back when the store is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from segue.artifacts import read_json, write_json
from segue.errors import ArtifactError
from segue.schema import Interactions
from segue.workspace import Workspace

ERASED_FILE: Final = "erased.json"


def keyed_hash(salt: str, user_id: str) -> str:
    """The name of a user under a store's secret ``salt``: HMAC-SHA-256, in hex."""
    return hmac.new(salt.encode(), user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Erasures:
    """``by_salt``: a store's secret -> the hashes of its erased users."""

    by_salt: Mapping[str, frozenset[str]]

    def __bool__(self) -> bool:
        return any(self.by_salt.values())

    def holds(self, user_id: str) -> bool:
        return any(keyed_hash(salt, user_id) in hashes for salt, hashes in self.by_salt.items())

    def drop_from(self, table: pl.DataFrame) -> pl.DataFrame:
        """``table`` without the rows whose ``user_id`` was erased."""
        if not self:
            return table
        users = table[Interactions.USER].unique().drop_nulls().cast(pl.String)
        gone = [user for user in users if self.holds(user)]
        if not gone:
            return table
        erased = pl.col(Interactions.USER).cast(pl.String).is_in(gone)
        return table.filter(erased.fill_null(False).not_())


def erased_file(workspace: Workspace, dataset: str) -> Path:
    return workspace.state(dataset) / ERASED_FILE


def read_erasures(workspace: Workspace, dataset: str) -> Erasures:
    """Nobody where there is no file. Raises ArtifactError where it is damaged: guessing would bring users back."""
    path = erased_file(workspace, dataset)
    if not path.is_file():
        return Erasures({})
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(hashes, list) for hashes in value.values()):
        raise ArtifactError(f"{path} is damaged: restore it from a backup, or erase the users again")
    return Erasures({str(salt): frozenset(map(str, hashes)) for salt, hashes in value.items()})


def write_erasures(workspace: Workspace, dataset: str, salt: str, hashes: Collection[str]) -> Erasures:
    """Put down that these are the erased users of the store with the secret ``salt``; what the file says then."""
    path = erased_file(workspace, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{ERASED_FILE}.lock").open("a") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        known = read_erasures(workspace, dataset).by_salt
        now = Erasures({**known, salt: frozenset(hashes)})
        if now.by_salt.get(salt) != known.get(salt, frozenset()):
            write_json(path, {name: sorted(users) for name, users in now.by_salt.items()})
    return now
