"""Read ahead, work, finish behind: what surrounds an engine happens beside it.

Not here: what is read, worked on and finished (`counting.py`). The command line over files has its own
(`inference/labelling.py`), which goes on where one file fails.

    for item, result in overlapped(paths, read, predict, write, workers=2): ...
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Worked = TypeVar("Worked")
Finished = TypeVar("Finished")


def overlapped(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    work: Callable[[Item, Loaded], Worked],
    finish: Callable[[Item, Worked], Finished],
    *,
    workers: int,
) -> Generator[tuple[Item, Finished], None, None]:
    """Each item with `finish(item, work(item, load(item)))`, in the items' order, whatever `workers` is.

    `work` runs in the caller's thread, one item at a time; `load` of the next items and `finish` of the last
    ones in `workers` threads each (0: none, one thing after another). At most `workers + 1` items are loaded
    or being loaded, and as many are being finished or wait for the caller. What a function raises is raised
    here at that item's turn; no thread is left behind then, or when the iterator is closed.
    """
    if not workers:
        for item in items:
            yield item, finish(item, work(item, load(item)))
        return
    loading: deque[tuple[Item, Future[Loaded]]] = deque()
    finishing: deque[tuple[Item, Future[Finished]]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(workers, "load") as loaders, ThreadPoolExecutor(workers, "finish") as finishers:
        try:
            while True:
                for item in islice(source, workers + 1 - len(loading)):
                    loading.append((item, loaders.submit(load, item)))
                if not loading:
                    break
                item, loaded = loading.popleft()
                finishing.append((item, finishers.submit(finish, item, work(item, loaded.result()))))
                del loaded
                while finishing and (len(finishing) > workers or finishing[0][1].done()):
                    yield _result(finishing)
            while finishing:
                yield _result(finishing)
        finally:
            for waiting in (loading, finishing):
                for _, future in waiting:
                    future.cancel()


def _result(finishing: deque[tuple[Item, Future[Finished]]]) -> tuple[Item, Finished]:
    item, finished = finishing.popleft()
    return item, finished.result()
