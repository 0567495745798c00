"""Sends that wait for room in their topic: each holds up those behind it and nothing else.

A line is tried again every few milliseconds by the thread that makes all sends. It never waits for
room itself: the engine is asked not to.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from datetime import timedelta
from time import monotonic
from typing import Any, Generic, TypeVar

from .._errors import Closed, Timeout

T = TypeVar("T")

# Seconds between two attempts of a line.
PAUSE = 0.01


def seconds(timeout: Any) -> float:
    """A time-out as a number. One that is none is refused by the send itself."""
    if timeout is None:
        return float("inf")
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    return float(timeout) if isinstance(timeout, int | float) else 0.0


class Sending(Generic[T]):
    """A send on its way to the engine."""

    def __init__(
        self,
        start: Callable[[], Future[T]],
        waiter: asyncio.Future[T],
        tell: Callable[[Future[T]], None],
        timeout: Any,
        late: Callable[[], T] | None,
    ) -> None:
        self._start = start
        self._waiter = waiter
        self._tell = tell
        self._until = monotonic() + seconds(timeout)
        # What is done instead of telling that there was no room.
        self._late = late

    def begin(self) -> Timeout | None:
        """Starts it, unless nobody wants it any more; gives why there is no room for it."""
        if self._waiter.cancelled():
            return None
        sent: Future[T]
        try:
            sent = self._start()
        except Timeout as error:
            if monotonic() < self._until:
                return error
            self.give_up(error)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        else:
            sent.add_done_callback(self._tell)
        return None

    def is_over(self) -> bool:
        """Whether its time is over, or nobody wants it any more."""
        return self._waiter.cancelled() or monotonic() >= self._until

    def give_up(self, error: Timeout | Closed) -> None:
        """Ends it: there was no room in its time."""
        if self._waiter.cancelled():
            return
        if self._late is None:
            self._fail(error)
            return
        done: Future[T] = Future()
        try:
            done.set_result(self._late())
        except BaseException as failed:  # noqa: BLE001
            done.set_exception(failed)
        self._tell(done)

    def _fail(self, error: BaseException) -> None:
        failed: Future[T] = Future()
        failed.set_exception(error)
        self._tell(failed)


class Lines:
    """The lines of one store. For one thread."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[Sending[Any]]] = {}
        self._next = 0.0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def enter(self, line: Hashable, sending: Sending[Any]) -> None:
        """Begins a send, or puts it at the end of its line."""
        waiting = self._lines.get(line)
        if waiting is not None:
            waiting.append(sending)
        elif sending.begin() is not None:
            self._lines[line] = deque([sending])
            self._next = monotonic() + PAUSE

    def go_on(self) -> None:
        """Tries the first ones again when it is time, and ends those whose time is over."""
        if not self._lines or monotonic() < self._next:
            return
        for line, waiting in list(self._lines.items()):
            error = None
            while waiting and (error := waiting[0].begin()) is None:
                waiting.popleft()
            if not waiting:
                del self._lines[line]
            elif error is not None and any(sending.is_over() for sending in waiting):
                self._lines[line] = _without_those_over(waiting, error)
        self._next = monotonic() + PAUSE

    def close(self) -> None:
        """Tries all once more, and ends those that still wait."""
        self._next = 0.0
        self.go_on()
        text = "the store was closed while the send waited for room"
        for waiting in self._lines.values():
            for sending in waiting:
                closed = Closed(text, number=601, name="Closed", outcome="not_stored")
                sending.give_up(closed)
        self._lines.clear()


def _without_those_over(waiting: deque[Sending[Any]], error: Timeout) -> deque[Sending[Any]]:
    left: deque[Sending[Any]] = deque()
    for sending in waiting:
        # The first was tried just now, and has time left: it keeps the line.
        if left and sending.is_over():
            sending.give_up(error)
        else:
            left.append(sending)
    return left
