"""Work on many small items with a few of them under way at once, their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

THREADS = 8  # more than cores: over S3 most of them wait for the network

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS) -> Iterator[Result]:
    """`work` on each item in order, done by threads up to twice their number in advance.

    Decoding and encoding of images let other threads run. An error comes out at its item's turn and ends the rest.
    The items themselves come from the calling thread: stages follow one another when each is the next one's items.
    At most `2 * threads + 1` items or results are held.
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
