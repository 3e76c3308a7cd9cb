"""Processes that tests send signals to."""

import signal


def take_interrupts() -> None:
    """To run in a child before it starts: a shell's background job, as tests may be one, ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
