"""One setting for Postgres: ``SEGUE_DATABASE_URL`` moves the ledger and the online store there.

Without it both are SQLite files under ``state/<dataset>/``. The ledger's rows carry their dataset; the online
store lies in a Postgres schema of its own for each dataset (:func:`namespace_of`), so that one database holds
any number of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from segue.errors import ConfigurationError

DATABASE_URL: Final = "SEGUE_DATABASE_URL"
_IDENTIFIER_BYTES = 63  # a longer name is cut by Postgres, in silence
_DIALECTS = ("sqlite", "postgresql")


def database_url(environment: Mapping[str, str]) -> str | None:
    """The database of ``SEGUE_DATABASE_URL``, None where it is not set.

    Raises ConfigurationError where it is not a Postgres URL: SQLite is what there is without it.
    """
    given = environment.get(DATABASE_URL)
    if not given:
        return None
    url = checked_url(given, DATABASE_URL)
    if not url.startswith("postgresql"):
        raise ConfigurationError(
            f"{DATABASE_URL} must be postgresql://user:password@host/database; "
            "without it SQLite files under state/ are used"
        )
    return url


def checked_url(url: str, variable: str) -> str:
    """``url`` as SQLAlchemy reads it (``postgres://`` is Postgres too, by the driver psycopg).

    Raises ConfigurationError, without showing a password, where it is no URL of SQLite or Postgres.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            f"{variable} is no database URL: give postgresql://user:password@host/database or sqlite:///file"
        ) from error
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in _DIALECTS:
        raise ConfigurationError(
            f"{variable} asks for {parsed.get_backend_name()!r}: it is one of {', '.join(_DIALECTS)}"
        )
    return parsed.render_as_string(hide_password=False)


def namespace_of(dataset: str) -> str:
    """The Postgres schema of a dataset's online store: one for each name, never longer than a name may be."""
    name = f"segue_{dataset}"
    if len(name.encode()) <= _IDENTIFIER_BYTES:
        return name
    return f"segue_{hashlib.sha256(dataset.encode()).hexdigest()[:32]}"


def postgres_arguments() -> dict[str, Any]:
    """How psycopg connects: a server that went away is noticed within seconds, not by the kernel's quarter of an hour."""
    return {
        "connect_timeout": 3,  # seconds
        "keepalives_idle": 5,  # seconds
        "keepalives_interval": 2,  # seconds
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,  # milliseconds
    }
