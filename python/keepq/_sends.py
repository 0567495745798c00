"""Asynchronous sends: futures, callbacks, and the thread that completes them.

Loaded by the first asynchronous send. The native module puts results together; here they become
those of futures, in batches, on one thread for each open store.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures._base import RUNNING
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._errors import Error
    from ._keepq import SendResult, Store

    # A future, its callbacks, and a result or an error.
    _Settled = tuple[
        Future[SendResult],
        Callable[[SendResult], object] | None,
        Callable[[Error], object] | None,
        SendResult | None,
        Error | None,
    ]


log = logging.getLogger("keepq")

# Stores with a thread: closed when the interpreter ends, so that every callback is called.
_stores: weakref.WeakKeyDictionary[Store, threading.Thread] = weakref.WeakKeyDictionary()


def future() -> Future[SendResult]:
    """A future that cannot be cancelled: its message is in the log, or will be in a moment."""
    made: Future[SendResult] = Future()
    # As set_running_or_notify_cancel does, without its lock: nobody else knows it yet.
    made._state = RUNNING
    return made


def start(store: Store, batches: Iterator[list[_Settled]]) -> None:
    """Starts the thread of a store."""
    thread = threading.Thread(target=deliver, args=(batches,), name="keepq-sends", daemon=True)
    thread.start()
    _stores[store] = thread


def deliver(batches: Iterator[list[_Settled]]) -> None:
    """The thread: completes futures and calls back, until the store is closed."""
    for batch in batches:
        _deliver_all(batch)
        # Nothing of a batch is kept alive while the next one is waited for.
        del batch


def _deliver_all(batch: list[_Settled]) -> None:
    for settled in batch:
        try:
            _settle(*settled)
        except BaseException:
            log.exception("the result of an asynchronous send could not be delivered")


def _settle(
    future: Future[SendResult],
    on_success: Callable[[SendResult], object] | None,
    on_exception: Callable[[Error], object] | None,
    result: SendResult | None,
    error: Error | None,
) -> None:
    if error is not None:
        future.set_exception(error)
        if on_exception is not None:
            _call(on_exception, error)
    elif result is not None:
        future.set_result(result)
        if on_success is not None:
            _call(on_success, result)


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
            # Its lock may be held for ever here, and its callbacks are the parent's.
            future._condition = threading.Condition()
            future._done_callbacks.clear()  # type: ignore[attr-defined]
            if not future.done():
                future.set_exception(error)
    _stores.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
