"""The one exception a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: says which file and structure, what is wrong, and the remedy.

    The command line prints the message and exits with code 2.
    """
