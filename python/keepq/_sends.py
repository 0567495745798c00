"""Asynchronous sends: callbacks, and the thread that makes them.

Loaded by the first asynchronous send. A future knows its result by itself; one that somebody wants
to be told of is finished here, in batches, on one thread for each open store.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ._errors import Error
    from ._keepq import SendResult, Store

    class _SendFuture(Future[SendResult]):
        """What the native one has beyond any other."""

        _waiters: list[Any]
        _done_callbacks: list[Callable[[Any], object]]

        def _finish_untold(self) -> bool: ...
        def _finish(self) -> None: ...
        def _abandon(self, error: Error) -> None: ...

    # A future, the callbacks of its send, and a result or an error.
    _Settled = tuple[
        _SendFuture,
        Callable[[SendResult], object] | None,
        Callable[[Error], object] | None,
        SendResult | None,
        Error | None,
    ]


log = logging.getLogger("keepq")

# Stores with a thread: closed when the interpreter ends, so that every callback is called.
_stores: weakref.WeakKeyDictionary[Store, threading.Thread] = weakref.WeakKeyDictionary()


def start(store: Store, batches: Iterator[list[_Settled]]) -> None:
    """Starts the thread of a store."""
    thread = threading.Thread(target=deliver, args=(batches,), name="keepq-sends", daemon=True)
    thread.start()
    _stores[store] = thread


def deliver(batches: Iterator[list[_Settled]]) -> None:
    """The thread: finishes futures and calls back, until the store is closed."""
    for batch in batches:
        deliver_all(batch)
        # Nothing of a batch is kept alive while the next one is waited for.
        del batch


def deliver_all(batch: list[_Settled]) -> None:
    """Finishes futures and calls back."""
    for settled in batch:
        try:
            _settle(*settled)
        except BaseException:
            log.exception("the result of an asynchronous send could not be delivered")


def _settle(
    future: _SendFuture,
    on_success: Callable[[SendResult], object] | None,
    on_exception: Callable[[Error], object] | None,
    result: SendResult | None,
    error: Error | None,
) -> None:
    if not future._finish_untold():
        _tell(future, error)
    if error is not None:
        if on_exception is not None:
            _call(on_exception, error)
    elif result is not None and on_success is not None:
        _call(on_success, result)


def _tell(future: _SendFuture, error: Error | None) -> None:
    """Finishes a future as concurrent.futures does."""
    with future._condition:
        future._finish()
        for waiter in future._waiters:
            if error is None:
                waiter.add_result(future)
            else:
                waiter.add_exception(future)
        future._condition.notify_all()
    for callback in future._done_callbacks:
        try:
            call_done(future, callback)
        except BaseException:
            log.exception("a callback of %r ended its thread for results; it goes on", future)


def call_done(future: _SendFuture, callback: Callable[[Any], object]) -> None:
    """Calls what somebody added to a future. What it raises is logged, as by any other future."""
    try:
        callback(future)
    except Exception:
        logging.getLogger("concurrent.futures").exception(
            "exception calling callback for %r", future
        )


def wait(future: _SendFuture, timeout: float | None) -> bool:
    """Waits until a future that is to be told of is finished."""
    condition = future._condition
    with condition:
        return condition.wait_for(future.done, timeout)


def _call(callback: Callable[[Any], object], value: object) -> None:
    """Calls a program's callback. What it raises is logged: there is nobody else to tell."""
    try:
        callback(value)
    except BaseException:
        log.exception("a callback of an asynchronous send raised; the send had %r", value)


def _at_exit() -> None:
    for store, thread in list(_stores.items()):
        try:
            store.close()
        except Exception:
            log.exception("%r could not be closed when the interpreter ended", store)
        # It must not be there any more when the interpreter is taken apart.
        thread.join()


def _after_fork() -> None:
    """In a forked child: what the parent sent has its result there, not here."""
    for store in list(_stores):
        error, futures = store._forked()
        for future in futures:
            future._abandon(error)
    _stores.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
