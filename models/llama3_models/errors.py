"""The errors that users read.

They are raised where the problem is known, and say in one line what is wrong, where, and what to do. The commands print
the line and exit with status 1 (2 for `UsageError`). Any other exception is a bug of ours and keeps its traceback.
"""


class Llama3Error(ValueError):
    """A problem with the user's files, options or machine, explained in one line."""


class UsageError(Llama3Error):
    """An invalid command line: an unknown flag, a value of the wrong type."""
