"""The one family of errors that a user is meant to read.

Raised where the fact is known, with what is wrong, where, and what to do, in one line; the command lines print it
and exit with status 1 (2 for `UsageError`). Everything else that escapes is a bug of ours and keeps its traceback.
"""


class Llama3Error(ValueError):
    """Something about the user's files, options or machine that the message explains in one line."""


class UsageError(Llama3Error):
    """A command line that cannot be understood: an unknown flag, a value of the wrong type."""
