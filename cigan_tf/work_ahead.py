"""Work that is done by threads before its results are asked for."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int, ahead: int
) -> Iterator[_Result]:
    """Yields what a function returns for each item, in the order of the items.

    Args:
        function: called by several threads at once.
        items: taken one by one by the caller's thread.
        threads: how many calls run at once.
        ahead: most items that are taken before the result of the first is yielded.
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
