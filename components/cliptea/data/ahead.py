"""Processes many small items with a few threads, and returns the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

THREADS = 8  # more than the number of cores, because threads mostly wait for the network with S3

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS) -> Iterator[Result]:
    """Yield the results of `work` for each item in order. Threads compute them in advance.

    Decoding and encoding of images release the GIL. An error is raised when its item is next, and ends the iteration.
    The calling thread iterates over the items, so stages can be chained by using one result as the next stage's items.
    At most `2 * threads + 1` items or results are in memory.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
