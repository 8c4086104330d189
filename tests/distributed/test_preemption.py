"""Handlers of signals come and go; what they do is in tests/cli/test_checkpoint.py."""

import signal

from hpc_sla.distributed import preemption


def test_what_was_there_comes_back_and_what_others_put_there_stays():
    before = [signal.getsignal(number) for number in preemption.SIGNALS]
    assert preemption.install()
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        preemption.uninstall()
        assert signal.getsignal(signal.SIGTERM) is before[0]
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        preemption.uninstall()
        for number, handler in zip(preemption.SIGNALS, before, strict=True):
            signal.signal(number, handler)
