"""A program that works on messages: handlers, their threads and event loop, and an orderly end.

`Worker.run` waits for events: a stop, a signal, a runner that has nothing left, a store that
failed. Everything else happens on the threads of the runners (`_runner.py`), one for each handler.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from . import _codecs
from ._errors import Error
from ._keepq import Group, Store, open
from ._runner import Handler, HandlerFunction, Runner
from ._types import Backoff, Duration, Flush

if TYPE_CHECKING:
    from ._worker_loop import Loop

log = logging.getLogger("keepq.worker")

F = TypeVar("F", bound=HandlerFunction)

# How long a store that failed is left alone before it is opened again, in seconds.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
# How long handlers that are told to give up may take to do so.
_GRACE = 1.0
# How long a wait goes on without the interpreter running signal handlers, in seconds: a signal that
# comes between its last look for them and the sleep of the main thread does not end that sleep.
_LOOK = 0.2

_STOP, _SIGNAL, _IDLE, _FAILED = "stop", "signal", "idle", "failed"
_TOLD = ("finishing what runs", "giving back what runs")


class Worker:
    """Calls functions for messages, until it is told to stop.

    handler() registers a function for a topic and a group; run() receives for all of them and
    returns after stop(), SIGTERM or SIGINT, when everything that had begun is done. Any number of
    workers, in any number of processes, share the messages of a group.

        app = keepq.Worker("shop.kq")

        @app.handler("orders", group="billing", codec="json")
        def bill(msg):
            charge(msg.value)

        app.run()

    A handler gets a keepq.Message, whose lease is kept while it runs. What it does decides:
    returning None or keepq.SUCCESS acks; returning keepq.RETRY_LATER or raising keepq.Retry(delay)
    has the message come again, after delay or the group's back-off; raising keepq.Reject(reason)
    makes it a dead letter. Any other exception is logged with its traceback and has the message
    come again after the back-off, as often as the group's max_attempts says; so does any other
    result. A body that does not decode is rejected: no attempt would change it. A handler that has
    settled the message itself is left alone.

    `async def` handlers run on one event loop, on a thread of its own; others on threads. Errors of
    the store are logged and what failed is tried again, with growing pauses; a store that cannot go
    on is closed and opened again. It may be pickled, and run in a forked or spawned process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        codec: _codecs.CodecName | None = None,
        create: bool = True,
        flush: Flush | None = None,
        drain_timeout: Duration = 30,
    ) -> None:
        """path, create and flush are those of keepq.open, which run() calls; codec is that of
        handlers which name none.

        drain_timeout: how many seconds a stop waits for handlers that run. Then, or at a second
        signal, their messages are given back at once and run() returns; threads that still run a
        handler do not keep the program from ending.
        """
        _codecs.lookup(codec)
        self.path = os.path.abspath(path)
        """The store."""
        self.drain_timeout = _seconds(drain_timeout)
        """Seconds."""
        self._codec = codec
        self._create = create
        self._flush = flush
        self._handlers: list[Handler] = []
        self._begin()

    def _begin(self) -> None:
        # Its put() may be called by signal handlers, at any point of any other call.
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._running = threading.Lock()
        # Told to stop: nothing more is received from here on, before run() has taken that in.
        self._halted = False
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        here = ("_events", "_running", "_halted", "_pid")
        return {name: value for name, value in vars(self).items() if name not in here}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def __repr__(self) -> str:
        return f"<keepq.Worker {self.path!r}, {len(self._handlers)} handlers>"

    def handler(
        self,
        topic: str,
        *,
        group: str,
        concurrency: int = 8,
        codec: _codecs.CodecName | None = None,
        lease: Duration | None = None,
        max_attempts: int | None = None,
        ack_flush: Flush | None = None,
        backoff: Backoff | Literal["rocketmq"] | None = None,
        start: Literal["earliest", "latest"] | int | None = None,
        tags: Sequence[str] | None = None,
        ordered: bool | None = None,
        broadcast: str | bool | None = None,
        max_outstanding: int | None = None,
    ) -> Callable[[F], F]:
        """Registers the function below for the messages of a group; returns it as it was.

        concurrency: how many messages it works on at the same time. codec: what msg.value is
        decoded by where the message does not say; it is decoded before the handler is called. The
        others are the group's options, as of Store.group.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is 1 or more, not {concurrency}")
        codec = self._codec if codec is None else codec
        _codecs.lookup(codec)
        given = {
            "lease": lease,
            "max_attempts": max_attempts,
            "ack_flush": ack_flush,
            "backoff": backoff,
            "start": start,
            "tags": tags,
            "ordered": ordered,
            "broadcast": broadcast,
            "max_outstanding": max_outstanding,
            "codec": codec,
        }
        options = {name: value for name, value in given.items() if value is not None}

        def register(function: F) -> F:
            self._handlers.append(Handler(function, topic, group, concurrency, options))
            return function

        return register

    def stop(self) -> None:
        """Has run() stop: nothing more is received, and it returns when what runs is done. From any
        thread, also from a handler; returns at once. Before run(), the next run() returns."""
        events = self._mine()
        self._halted = True
        events.put((_STOP, None))

    def run(self, *, concurrency: int | None = None) -> bool:
        """Works until it is stopped. Returns whether everything that had begun was finished.

        concurrency replaces that of all handlers. In the main thread SIGTERM and SIGINT stop it; a
        second one stops it at once. Raises what opening the store and the groups raises.
        """
        if not self._handlers:
            raise ValueError("the worker has no handlers; register one with @app.handler(...)")
        events = self._mine()
        if not self._running.acquire(blocking=False):
            raise RuntimeError("the worker runs already")
        try:
            with self._signals():
                return _Run(self, concurrency).serve()
        finally:
            while not events.empty():
                events.get()
            self._halted = False
            self._running.release()

    def _mine(self) -> queue.SimpleQueue[tuple[str, Any]]:
        if self._pid != os.getpid():
            # In a forked child; the parent's locks may be held here for ever.
            self._begin()
        return self._events

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def tell(number: int, _frame: FrameType | None) -> None:
            self._events.put((_SIGNAL, number))

        before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _open(self) -> Store:
        if self._flush is None:
            return open(self.path, create=self._create)
        return open(self.path, create=self._create, flush=self._flush)


class _Run:
    """One call of run(): what it was told so far, and what it does about it."""

    def __init__(self, worker: Worker, concurrency: int | None) -> None:
        self._worker = worker
        self._concurrency = concurrency
        self._events = worker._events
        self._stop = False
        self._signals = 0

    def serve(self) -> bool:
        """Works until a stop; whether all that had begun was finished."""
        session: _Session | None = self._session()
        drained = True
        while session is not None:
            self._wait(session)
            drained = self._drain(session)
            session.close()
            session = None if self._stop else self._again()
        return drained

    def _session(self) -> _Session:
        return _Session(self._worker, self._concurrency)

    def _next(self, timeout: float | None = None) -> _Session | None:
        """Takes the next event in; None when none comes in time. Gives the session that failed."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK if end is None else end - time.monotonic()
            try:
                kind, what = self._events.get(timeout=max(0.0, min(left, _LOOK)))
                break
            except queue.Empty:
                if left <= 0:
                    return None
        if kind == _STOP:
            self._stop = True
        elif kind == _SIGNAL:
            self._stop = True
            self._signals += 1
            log.info("%s: %s", signal.Signals(what).name, _TOLD[self._signals > 1])
        elif kind == _FAILED:
            session, error = what
            log.error("the store failed, it is closed and opened again: %s", error)
            assert isinstance(session, _Session)
            return session
        return None

    def _wait(self, session: _Session) -> None:
        """Until a stop or the failure of the store."""
        while not self._stop:
            if self._next() is session:
                return

    def _drain(self, session: _Session) -> bool:
        """Lets what runs finish, as long as it may take; gives back what does not."""
        session.stop()
        deadline = time.monotonic() + self._worker.drain_timeout
        while not session.is_idle():
            left = deadline - time.monotonic()
            if left <= 0 or self._signals > 1:
                break
            self._next(left)
        else:
            return True
        count = session.give_back()
        log.error("gave %d messages back, whose handlers had not finished", count)
        # Those that can be told to end are given the time to do so.
        deadline = time.monotonic() + _GRACE
        while not session.is_idle() and (left := deadline - time.monotonic()) > 0:
            self._next(left)
        return False

    def _again(self) -> _Session | None:
        """Opens the store again, for as long as it takes; None when a stop comes first."""
        pause = _FIRST_PAUSE
        while True:
            end = time.monotonic() + pause
            while (left := end - time.monotonic()) > 0:
                self._next(left)
                if self._stop:
                    return None
            try:
                session = self._session()
            except Error as error:
                pause = min(pause * 2, _LAST_PAUSE)
                log.error("the store cannot be opened, again in %g s: %s", pause, error)
            else:
                log.info("the store is open again")
                return session


class _Session:
    """The store as it is open once, and what works on it."""

    def __init__(self, worker: Worker, concurrency: int | None) -> None:
        self._events = worker._events
        self._worker = worker
        self._loop: Loop | None = None
        self._runners: list[Runner] = []
        self._store = worker._open()
        try:
            for handler in worker._handlers:
                group = self._store.group(handler.topic, handler.group, **handler.options)
                self._runners.append(self._runner(handler, group, concurrency))
        except BaseException:
            self._store.close()
            raise
        for runner in self._runners:
            runner.start()

    def _runner(self, handler: Handler, group: Group, concurrency: int | None) -> Runner:
        loop = None
        if handler.is_async:
            from ._worker_loop import Loop

            loop = self._loop = self._loop or Loop()
        return Runner(
            handler,
            group,
            concurrency or handler.concurrency,
            loop,
            halted=lambda: self._worker._halted,
            idle=lambda: self._events.put((_IDLE, None)),
            failed=lambda error: self._events.put((_FAILED, (self, error))),
        )

    def stop(self) -> None:
        """Nothing more is received."""
        for runner in self._runners:
            runner.stop()

    def is_idle(self) -> bool:
        """Whether nothing is received any more and nothing runs."""
        return all(runner.is_idle() for runner in self._runners)

    def give_back(self) -> int:
        """Gives back what runs, at once; how many messages."""
        return sum(runner.give_back() for runner in self._runners)

    def close(self) -> None:
        """Ends the threads and closes the store. After stop()."""
        for runner in self._runners:
            runner.close()
        if self._loop is not None:
            self._loop.close()
        try:
            self._store.close()
        except Error as error:
            log.error("closing the store: %s", error)


def _seconds(duration: Duration) -> float:
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds:
        raise ValueError(f"{duration} is not a duration: 0 s or more")
    return seconds
