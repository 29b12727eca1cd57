"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell has what it starts in the background ignore SIGINT, and nohup SIGHUP, and programs hand that on to those that
# they start. Tests that send these signals mean programs that were started in the ordinary way.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
