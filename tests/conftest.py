"""For every test."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and every command that a test interrupts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
