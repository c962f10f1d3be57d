"""Who does something, by the name that stays in the ledger."""

from __future__ import annotations

import getpass

from segue.errors import StateError


def login() -> str | None:
    """The login name of whoever runs this process; None where the system has none for them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return None


def named(actor: str | None) -> str:
    """``actor``, else the login name. Raises StateError where there is neither."""
    found = actor or login()
    if found is None:
        raise StateError("your login has no name here: give one with --actor")
    return found
