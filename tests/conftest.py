"""What every test relies on."""

import os
import signal

import torch


def pytest_configure() -> None:
    """Ctrl-C works, here and in the processes that tests start, also where a shell without job control has
    started the suite in the background: such a shell has its children ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Triton asks once, when it is imported, whether it is to interpret its kernels, as it must without a GPU.
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
