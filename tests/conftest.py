"""What every test relies on."""

import signal


def pytest_configure() -> None:
    """Ctrl-C works, here and in the processes that tests start, also where a shell without job control has
    started the suite in the background: such a shell has its children ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
