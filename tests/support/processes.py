"""Processes that tests send signals to."""

import signal


def take_interrupts() -> None:
    """Accept SIGINT in a child before it starts; tests may run as a shell's background job, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
