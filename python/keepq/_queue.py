"""queue.Queue's interface over a store: threads and processes share it, and it survives them."""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from . import _codecs
from ._errors import DecodeError, Empty, Error, Full, SendError
from ._keepq import Message, open
from ._types import Flush

T = TypeVar("T")

if sys.version_info >= (3, 13):

    class ShutDown(Error, queue.ShutDown):
        """The queue was shut down. It is a queue.ShutDown where Python has that (3.13)."""

else:

    class ShutDown(Error):
        """The queue was shut down. It is a queue.ShutDown where Python has that (3.13)."""


# How long a wait for what other processes do sleeps before it looks again, in seconds: at first,
# and at most. What this process does is told at once.
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.02
# The longest that get() does not see a shutdown.
_SLICE = 0.1


class _Gotten:
    """An item that was gotten and is not done yet."""

    __slots__ = ("keep", "lease", "message", "number")

    def __init__(self, number: int, message: Message, lease: float) -> None:
        self.number = number
        self.message = message
        self.lease = lease
        self.hold()

    def hold(self) -> None:
        """Has the lease kept from now on."""
        self.keep = self.message.keep_alive(self.lease)
        self.keep.__enter__()

    def done(self) -> None:
        """Acks it."""
        self.keep.__exit__(None, None, None)


class _Here:
    """What one process has open, and has gotten."""

    def __init__(self, path: str, topic: str, group: str, flush: Flush | None) -> None:
        self.pid = os.getpid()
        self.store = open(path) if flush is None else open(path, flush=flush)
        self.topic = self.store.topic(topic)
        self.group = self.store.group(topic, group)
        self.lease = self.group.config().lease
        # Held while a put counts and sends, so that threads never exceed maxsize together.
        self.putting = threading.Lock()
        # What follows is changed under its lock; notified when a get, a task_done or a shutdown
        # may let somebody go on.
        self.changed = threading.Condition(threading.Lock())
        self.changes = 0
        self.numbers = itertools.count()
        # By thread, oldest first. The key is an object of the thread: its number would be used
        # again by another one.
        self.gotten: dict[object, deque[_Gotten]] = {}
        self.thread = threading.local()

    def enter(self, message: Message) -> None:
        """Notes an item as gotten by this thread, and keeps its lease."""
        token = self.thread.__dict__.setdefault("token", object())
        item = _Gotten(next(self.numbers), message, self.lease)
        with self.changed:
            self.gotten.setdefault(token, deque()).append(item)
        self.tell()

    def take(self) -> _Gotten | None:
        """Takes the oldest item of this thread, else of this process."""
        token = self.thread.__dict__.get("token")
        with self.changed:
            if token not in self.gotten:
                if not self.gotten:
                    return None
                token = min(self.gotten, key=lambda t: self.gotten[t][0].number)
            mine = self.gotten[token]
            oldest = mine.popleft()
            if not mine:
                del self.gotten[token]
            return oldest

    def put_back(self, item: _Gotten) -> None:
        """Notes an item as gotten again: it could not be settled."""
        token = self.thread.__dict__.setdefault("token", object())
        item.hold()
        with self.changed:
            self.gotten.setdefault(token, deque()).appendleft(item)

    def unfinished(self) -> int:
        """How many items were gotten here and are not done."""
        with self.changed:
            return sum(map(len, self.gotten.values()))

    def tell(self) -> None:
        """Wakes who waits for something to change."""
        with self.changed:
            self.changes += 1
            self.changed.notify_all()

    def wait(self, seen: int, pause: float) -> None:
        """Sleeps until something changes that was not seen yet, at most so long."""
        with self.changed:
            if self.changes == seen:
                self.changed.wait(pause)


class Queue(Generic[T]):
    """A queue.Queue that is a store on disk: shared by threads and processes, and kept.

    It is used like queue.Queue, with the same exceptions, and this is what differs:

    - An item is on disk when put() returns. Without a codec items are bytes-like and come out as
      bytes; codec is "json", "msgpack", "str" or "pickle".
    - get() leases: the item belongs to this process until task_done(), for as long as the process
      lives. One that is gotten and not done when the process ends, is killed or calls close() can
      be gotten again by another. After 16 times it becomes a dead letter of the group.
    - task_done() is for the oldest item that the calling thread has gotten and not done; if there
      is none, for the oldest one of this process. So a thread that gets one item at a time, or
      finishes them in order, means what it should.
    - qsize(), full() and maxsize count the items that nobody has gotten, those that wait after a
      failed attempt included. unfinished_tasks and join() count those of all processes.
    - maxsize is a matter of each handle. Threads never exceed it together; n processes that put at
      the same moment may, by n - 1 items. A put that waits for another process to get something
      sees it within 20 ms.
    - shutdown() is for this handle, in this process: other processes go on. It removes nothing.
      With immediate=True the items that are left are no longer seen through this handle, and can
      be gotten by others and later. A waiting get() sees a shutdown within 0.1 s.

    In a forked child it opens the store anew and has gotten nothing; pickled, it is its arguments.
    Errors of the store are keepq.Error; a full disk is a Full, also for a put that may wait.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        topic: str = "queue",
        group: str = "queue",
        maxsize: int = 0,
        codec: _codecs.CodecName | None = None,
        flush: Flush | None = None,
    ) -> None:
        """Opens the store at path and makes what is missing. flush="async": put() returns when the
        item is in shared memory, which survives the death of every process."""
        _codecs.lookup(codec)
        self.maxsize = maxsize
        """How many items may wait; 0 or less: any number. May be changed."""
        self.is_shutdown = False
        """Whether shutdown() was called."""
        self._immediate = False
        self._arguments = (os.path.abspath(path), topic, group, flush)
        self._codec = codec
        self._opened = _Here(*self._arguments)
        self._parents: list[_Here] = []

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Puts an item into the queue; it is on disk when this returns.

        With maxsize items in it, waits for room, at most timeout seconds (None = for ever); then,
        or at once with block=False, raises Full. Raises ShutDown after shutdown().
        """
        here = self._here()
        if self.is_shutdown:
            raise _shut_down()
        body, headers = _codecs.encode(self._codec, item, None)
        if self.maxsize <= 0:
            here.topic.send(body, headers=headers)
            return
        deadline = _deadline(block, timeout)
        pause = _FIRST_LOOK
        while True:
            seen = here.changes
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # A put that may not wait waits here for others to end, as for a mutex.
            if not here.putting.acquire(timeout=-1 if left is None or not block else left):
                raise _full(self.maxsize)
            try:
                if self.is_shutdown:
                    raise _shut_down()
                if not 0 < self.maxsize <= self.qsize():
                    here.topic.send(body, headers=headers)
                    return
            finally:
                here.putting.release()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise _full(self.maxsize)
            here.wait(seen, pause if left is None else min(pause, left))
            pause = min(pause * 2, _LAST_LOOK)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Takes an item out of the queue; it is this process's until task_done().

        Waits for one, at most timeout seconds (None = for ever); then, or at once with block=False,
        raises Empty. Raises ShutDown after shutdown() when no item is left, or at once if that was
        immediate. Raises DecodeError for an item that is not what the codec reads: it is put back,
        and a dead letter after 16 attempts.
        """
        here = self._here()
        deadline = _deadline(block, timeout)
        slice_ = 0.0
        while True:
            if self._immediate:
                raise _shut_down()
            message = _receive(here, slice_)
            if message is not None:
                return self._gotten(here, message)
            if self.is_shutdown and not self.qsize():
                raise _shut_down()
            left = _SLICE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise Empty("the queue is empty")
            slice_ = min(_SLICE, left)

    def _gotten(self, here: _Here, message: Message) -> T:
        if self._codec is None:
            value: Any = message.body
        else:
            what = f"the item {message.id}"
            try:
                value = _codecs.value(self._codec, message.body, message.headers, what)
            except DecodeError:
                message.nack()
                raise
        here.enter(message)
        item: T = value
        return item

    def put_nowait(self, item: T) -> None:
        """put(item, block=False)."""
        self.put(item, block=False)

    def get_nowait(self) -> T:
        """get(block=False)."""
        return self.get(block=False)

    def task_done(self) -> None:
        """Says that an item is done: it will not come again.

        It is the oldest one gotten by this thread and not done, else the oldest of this process.
        Raises ValueError when there is none, LeaseLost when the process had been stopped for so
        long that others were given the item.
        """
        here = self._here()
        item = here.take()
        if item is None:
            raise ValueError("task_done() called too many times")
        try:
            item.done()
        except Error as error:
            # A full disk, a busy lock: it may be said again.
            if error.retriable and not isinstance(error, SendError):
                here.put_back(item)
            raise
        finally:
            here.tell()

    def join(self) -> None:
        """Waits until every item was gotten and is done, whichever process did it. After an
        immediate shutdown: every item that this process has gotten."""
        pause = _FIRST_LOOK
        while True:
            here = self._here()
            seen = here.changes
            if not self.unfinished_tasks:
                return
            here.wait(seen, pause)
            pause = min(pause * 2, _LAST_LOOK)

    @property
    def unfinished_tasks(self) -> int:
        """How many items are not done: waiting, or gotten by any process. After an immediate
        shutdown: gotten by this one."""
        here = self._here()
        if self._immediate:
            return here.unfinished()
        stats = here.group.stats()
        return stats.ready + stats.delayed + stats.in_flight

    def qsize(self) -> int:
        """How many items nobody has gotten. Others may change that at any moment."""
        if self._immediate:
            return 0
        stats = self._here().group.stats()
        return stats.ready + stats.delayed

    def empty(self) -> bool:
        """Whether qsize() is 0."""
        return not self.qsize()

    def full(self) -> bool:
        """Whether maxsize is reached."""
        return 0 < self.maxsize <= self.qsize()

    def shutdown(self, immediate: bool = False) -> None:
        """Makes put() raise ShutDown, and get() as soon as the queue is empty; with immediate=True
        at once. For this handle only; nothing is removed."""
        here = self._here()
        self.is_shutdown = True
        if immediate:
            self._immediate = True
        here.tell()

    def close(self) -> None:
        """Closes the store. What was gotten here and is not done can be gotten by others at once.
        Closing again does nothing."""
        here = self._here()
        with here.changed:
            here.gotten.clear()
        here.store.close()
        here.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        path, topic, group, flush = self._arguments
        return _again, (type(self), path, topic, group, self.maxsize, self._codec, flush)

    def __repr__(self) -> str:
        path, topic, group, _ = self._arguments
        return f"<keepq.Queue {path!r}, topic {topic!r}, group {group!r}>"

    def _here(self) -> _Here:
        here = self._opened
        if here.pid != os.getpid():
            # The parent's stays referenced: what it has gotten is not for this process to drop.
            self._parents.append(here)
            here = self._opened = _Here(*self._arguments)
        return here


def _receive(here: _Here, timeout: float) -> Message | None:
    if timeout <= 0:
        return here.group.poll()
    try:
        return here.group.receive(timeout)
    except Empty:
        return None


def _deadline(block: bool, timeout: float | None) -> float | None:
    """When a call gives up; None = never. By queue.Queue's rules."""
    if not block:
        return 0.0
    if timeout is None:
        return None
    if timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return time.monotonic() + timeout


def _full(maxsize: int) -> Full:
    return Full(f"{maxsize} items wait in the queue, as many as may")


def _shut_down() -> ShutDown:
    return ShutDown("the queue was shut down")


def _again(
    cls: type[Queue[Any]],
    path: str,
    topic: str,
    group: str,
    maxsize: int,
    codec: _codecs.CodecName | None,
    flush: Flush | None,
) -> Queue[Any]:
    return cls(path, topic=topic, group=group, maxsize=maxsize, codec=codec, flush=flush)
