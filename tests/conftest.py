"""What every test relies on."""

import os
import signal
from contextlib import suppress

import torch


def pytest_configure() -> None:
    """Ctrl-C works, here and in the processes that tests start, also where a shell without job control has
    started the suite in the background: such a shell has its children ignore it.

    PyTorch computes on one thread: tests' networks are tiny, their sums are then alike everywhere, and on a
    machine that others use too its threads wait for one another, half a second of one test being sixteen.
    On such a machine hypothesis' deadline of 200 ms an example, too, fails tests of nothing.
    """
    with suppress(ModuleNotFoundError):  # machines with a GPU run tests that do without
        import hypothesis

        hypothesis.settings.register_profile("suite", deadline=None)
        hypothesis.settings.load_profile("suite")
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Triton asks once, when it is imported, whether it is to interpret its kernels, as it must without a GPU.
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
