"""The exceptions a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: says which file and structure, what is wrong, and the remedy.

    The command line prints the message and exits with code 2.
    """


class LostWorker(Exception):
    """Another process of the same run is gone: says what is kept, and how to go on.

    The command line prints the message and exits with code 1.
    """
