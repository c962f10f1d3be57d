"""The online store: histories, events, exposures and feedback, in SQLite or Postgres."""

from segue.serving.store.attribution import Coverage, UserSums
from segue.serving.store.records import Exposure, Posted, Retention, StoredHistory, new_exposure_id
from segue.serving.store.schema import SCHEMA_VERSION
from segue.serving.store.store import Store, open_named_store, open_store, store_exists

__all__ = [
    "SCHEMA_VERSION",
    "Coverage",
    "Exposure",
    "Posted",
    "Retention",
    "Store",
    "StoredHistory",
    "UserSums",
    "new_exposure_id",
    "open_named_store",
    "open_store",
    "store_exists",
]
