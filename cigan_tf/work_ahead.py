"""Threads that compute results in advance."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int, ahead: int
) -> Iterator[_Result]:
    """Yields the function's result for each item, in the order of the items.

    Args:
        function: called by several threads at once.
        items: read one by one in the caller's thread.
        threads: number of concurrent calls.
        ahead: number of items read beyond the one whose result is yielded.
    """
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
