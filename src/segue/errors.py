"""Errors a user can mend. Their message names the file, row or field, and what to do about it."""

from __future__ import annotations


class SegueError(Exception):
    """Base of every error that the command line prints without a traceback."""


class DataError(SegueError):
    """The user's data cannot be used as it is."""


class ConfigurationError(SegueError):
    """A parameter or a profile is wrong."""


class ArtifactError(SegueError):
    """An artifact is missing, incomplete, damaged or of an unknown version."""


class LockedError(SegueError):
    """Somebody else works on this dataset right now."""


class BindingError(SegueError):
    """Two parts that do not belong together were asked to work together."""


class StateError(SegueError):
    """The deployment's state machine does not allow what was asked."""


class UnavailableError(SegueError):
    """A database cannot be reached, or is busy, right now. The same call may succeed later."""
