"""The threads that call the engine for an event loop.

`Hands.call` is for short calls in their order: one thread makes them, and tells the loop of many
results at a time. `Hands.wait` is for calls that wait for the disk: a few threads, no order.
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import threading
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from .._errors import Closed
from ._line import PAUSE, Lines, Sending

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
N = TypeVar("N")

# Threads for calls that wait; syncs of several share a flush.
_WAITERS = 8


class Hands:
    """The threads of one open store."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # They see to their errors themselves; None is the end.
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Of sends that wait for room; the thread's own.
        self._lines = Lines()
        self.send_timeout: float | None = None
        """What sends that say nothing have, in seconds; None = for ever. Known when the store is
        open."""
        self._pool = ThreadPoolExecutor(_WAITERS, thread_name_prefix="keepq-aio")
        # What other threads want done on the loop, which is told once for all of it.
        self._lock = threading.Lock()
        self._news: list[Callable[[], None]] = []
        self._closed = False

    def check(self) -> None:
        """Raises what a use on another loop, or after the close, is."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("this belongs to the event loop on which its store was opened")
        if self._closed:
            raise Closed("the store was closed", number=601, name="Closed")

    async def call(self, function: Callable[[], T], *, always: bool = False) -> T:
        """Calls on the one thread, in order. Cancelled before its turn it is not called, unless it
        is to be called always."""
        waiter: asyncio.Future[T] = self.loop.create_future()

        def run() -> None:
            if always or not waiter.cancelled():
                done: Future[T] = Future()
                try:
                    done.set_result(function())
                except BaseException as error:  # noqa: BLE001
                    done.set_exception(error)
                self._tell(partial(_settle, waiter, done))

        self._put(run)
        return await waiter

    async def send(
        self,
        line: Hashable,
        start: Callable[[], Future[T]],
        timeout: Any,
        late: Callable[[], T] | None = None,
    ) -> T:
        """Starts an asynchronous send in its turn and waits for its result. One for which there is
        no room (Timeout) is started again and again within its time-out, the others of its line
        behind it; `late` is what is called then, instead of raising. Cancelled before it was
        started it is not."""
        waiter: asyncio.Future[T] = self.loop.create_future()

        def tell(sent: Future[T]) -> None:
            self._tell(partial(_settle, waiter, sent))

        sending = Sending(start, waiter, tell, timeout, late)
        self._put(partial(self._lines.enter, line, sending))
        return await waiter

    async def wait(self, function: Callable[[], T]) -> T:
        """Calls on a thread that may wait. Cancelled, the call goes on."""
        self.check()
        return await self.loop.run_in_executor(self._pool, function)

    def _put(self, call: Callable[[], None]) -> None:
        self.check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="keepq-aio", daemon=True)
            self._thread.start()
            _all.add(self)
        self._calls.put(call)

    def _run(self) -> None:
        lines = self._lines
        while True:
            try:
                call = self._calls.get(timeout=PAUSE if lines else None)
            except queue.Empty:
                call = lines.go_on
            if call is None:
                break
            call()
            # Nothing of it stays while there is no other.
            del call
            lines.go_on()
        lines.close()

    def _tell(self, news: Callable[[], None]) -> None:
        """Has something done on the loop. From any thread."""
        with self._lock:
            self._news.append(news)
            told = len(self._news) > 1
        if not told:
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop was closed; nobody waits any more.
                self._deliver_to_nobody()

    def _deliver(self) -> None:
        with self._lock:
            all_news, self._news = self._news, []
        for news in all_news:
            news()

    def _deliver_to_nobody(self) -> None:
        with self._lock:
            self._news.clear()

    async def close(self, close: Callable[[], None]) -> None:
        """Makes the calls that wait for their turn, then the last one, and ends the threads."""
        if self._closed:
            return
        self._closed = True

        def end() -> None:
            self.stop()
            close()

        try:
            await asyncio.shield(self.loop.run_in_executor(self._pool, end))
        finally:
            self._pool.shutdown(wait=False)

    def stop(self) -> None:
        """Ends the one thread, after the calls that wait for their turn."""
        self._calls.put(None)
        if self._thread is not None:
            self._thread.join()


def _settle(waiter: asyncio.Future[T], done: Future[T]) -> None:
    if waiter.done():
        return
    error = done.exception()
    if error is None:
        waiter.set_result(done.result())
    else:
        waiter.set_exception(error)


class Once(Generic[T]):
    """Something that is opened by its first use, off the loop."""

    def __init__(self, hands: Hands, make: Callable[[], T]) -> None:
        self._hands = hands
        self._make = make
        self._opening: asyncio.Task[T] | None = None
        self.value: T | None = None
        """When it is open."""

    async def get(self) -> T:
        """Opens it if need be. Those who ask meanwhile wait for the same one."""
        self._hands.check()
        if self.value is not None:
            return self.value
        if self._opening is None:
            self._opening = self._hands.loop.create_task(self._hands.wait(self._make))
            self._opening.add_done_callback(self._opened)
        # Whoever gives up does not end it for the others.
        return await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[T]) -> None:
        self._opening = None
        # What failed is tried again by the next use.
        if not task.cancelled() and task.exception() is None:
            self.value = task.result()


def like(
    _native: Callable[Concatenate[N, P], object],
) -> Callable[[Callable[Concatenate[S, ...], R]], Callable[Concatenate[S, P], R]]:
    """Tells type checkers that a function takes what the native one takes."""
    return lambda function: function


_all: weakref.WeakSet[Hands] = weakref.WeakSet()


def _at_exit() -> None:
    # A thread that comes back from the engine while the interpreter is taken apart is not safe.
    for hands in list(_all):
        hands.stop()


atexit.register(_at_exit)
