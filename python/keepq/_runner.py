"""What works for one handler of a worker: a thread that receives, and those that run the handler.

The receiver takes a message only when it can be worked on at once, so that nothing waits here under
a lease. A message belongs to a `_Job` until it is settled; the receiver, the thread or task that
works on it and a stop that gives it back may meet over one, and the engine lets only one of them
settle it.
"""

from __future__ import annotations

import enum
import inspect
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ._errors import Closed, DecodeError, Error, LeaseLost, Reject, Retry, SendError
from ._keepq import Group, Message

if TYPE_CHECKING:
    from ._worker_loop import Loop

log = logging.getLogger("keepq.worker")


class ConsumeStatus(enum.Enum):
    """What a handler returns. The names are those of RocketMQ."""

    SUCCESS = "SUCCESS"
    """The message is done, as after None."""
    RETRY_LATER = "RETRY_LATER"
    """It is to come again, after the group's back-off."""


SUCCESS = ConsumeStatus.SUCCESS
RETRY_LATER = ConsumeStatus.RETRY_LATER

HandlerFunction: TypeAlias = (
    Callable[[Message], ConsumeStatus | None] | Callable[[Message], Awaitable[ConsumeStatus | None]]
)

# Pauses after an error of the store, in seconds.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 10.0
# How often a settlement is tried, with pauses of 0.1, 0.2, ... s between: well within half a lease.
_SETTLE_TRIES = 5
# Codes after which a store only goes on when it is opened again: Failed, StoreGone, BadHandle.
_HOPELESS = (203, 206, 603)
# The engine's limit for messages that are received at once.
_BATCH = 1024
# The engine's limit for the reason of a dead letter, in bytes.
_MAX_REASON = 1024


@dataclass(frozen=True)
class Handler:
    """A registered function."""

    function: HandlerFunction
    topic: str
    group: str
    concurrency: int
    options: dict[str, Any] = field(default_factory=dict)
    """Of the group, its codec included."""

    @property
    def name(self) -> str:
        """For people."""
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def is_async(self) -> bool:
        """Whether it is an `async def`."""
        function: Any = self.function
        call = getattr(function, "__call__", None)  # noqa: B004
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class Job:
    """A message that is worked on."""

    __slots__ = ("cancel", "given_back", "keep", "message")

    def __init__(self, message: Message, lease: float) -> None:
        self.message = message
        self.keep = message.keep_alive(lease)
        """Has the lease kept until it settles the message."""
        self.given_back = False
        self.cancel: Callable[[], object] | None = None
        """Ends the task that works on it; a thread cannot be ended."""


class Runner:
    """Receives for one handler and has its messages worked on."""

    def __init__(
        self,
        handler: Handler,
        group: Group,
        concurrency: int,
        loop: Loop | None,
        *,
        halted: Callable[[], bool],
        idle: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.handler = handler
        self._group = group
        self._lease = group.config().lease
        self._concurrency = concurrency
        self._loop = loop
        self._halted = halted
        self._idle = idle
        self._failed = failed
        self._decodes = "codec" in handler.options
        # Set under the lock that a receive holds: after a stop nothing is received.
        self._receiving_now = threading.Lock()
        self._stopping = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Under its lock: what runs, whether there is a receiver, and how many threads there are.
        # Notified when there is room, or nothing more is to be received.
        self._changed = threading.Condition(threading.Lock())
        self._jobs: set[Job] = set()
        self._receiving = False
        self._threads = 0
        self._to_do: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Begins to receive."""
        self._receiving = True
        name = f"keepq-{self.handler.group}"
        threading.Thread(target=self._receive, name=name, daemon=True).start()

    def stop(self) -> None:
        """Nothing more is received, from now on; what runs goes on."""
        with self._receiving_now:
            self._stopping.set()
        # Ends a sleep of the receiver.
        os.eventfd_write(self._wake, 1)
        with self._changed:
            self._changed.notify_all()

    def is_idle(self) -> bool:
        """Whether nothing is received any more, and nothing runs."""
        with self._changed:
            return not self._receiving and not self._jobs

    def give_back(self) -> int:
        """Gives back, at once, what runs; how many messages."""
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            job.given_back = True
            try:
                job.message.nack(0)
            except LeaseLost:
                pass  # It was settled in the meantime.
            except Error as error:
                log.error("%r could not be given back: %s", job.message, error)
            if job.cancel is not None:
                job.cancel()
        return len(jobs)

    def close(self) -> None:
        """Ends the threads; those that still run a handler end after it."""
        with self._changed:
            threads = self._threads
        for _ in range(threads):
            self._to_do.put(None)
        with self._changed:
            if not self._receiving:
                os.close(self._wake)

    def _receive(self) -> None:
        pause = _FIRST_PAUSE
        # What tells that there may be a message; there is none to be told of before it is asked.
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        watched = False
        try:
            while (room := self._room()) > 0:
                try:
                    if not watched:
                        poll.register(self._group.fileno(), select.POLLIN)
                        watched = True
                    if not self._receive_up_to(room):
                        poll.poll()
                    pause = _FIRST_PAUSE
                except BaseException as error:
                    if not _may_pass(error):
                        self._failed(error)
                        return
                    log.error(
                        "receiving for %s, again in %g s: %s", self.handler.name, pause, error
                    )
                    self._stopping.wait(pause)
                    pause = min(pause * 2, _LAST_PAUSE)
        finally:
            with self._changed:
                self._receiving = False
            self._idle()

    def _receive_up_to(self, room: int) -> int:
        """Begins with what there is, unless there was a stop; how many."""
        with self._receiving_now:
            if self._stopping.is_set() or self._halted():
                return 0
            messages = self._group.receive_batch(min(room, _BATCH), 0)
        for message in messages:
            self._begin(message)
        return len(messages)

    def _room(self) -> int:
        """How many messages can be worked on now; waits for one. 0: the end."""
        with self._changed:
            while not self._stopping.is_set():
                room = self._concurrency - len(self._jobs)
                if room > 0:
                    return room
                self._changed.wait()
            return 0

    def _begin(self, message: Message) -> None:
        job = Job(message, self._lease)
        try:
            job.keep.__enter__()
        except Error as error:
            # It is worked on all the same; that it was settled may then come to nothing.
            log.warning("the lease of %r is not kept: %s", message, error)
        with self._changed:
            self._jobs.add(job)
            missing = len(self._jobs) - self._threads
            if self._loop is None and missing > 0:
                self._threads += 1
                name = f"keepq-{self.handler.group}-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        if self._loop is None:
            self._to_do.put(job)
        else:
            self._loop.start(job, self)

    def _done(self, job: Job) -> None:
        with self._changed:
            self._jobs.discard(job)
            self._changed.notify_all()
            last = not self._jobs
        if last and self._stopping.is_set():
            self._idle()

    def _work(self) -> None:
        while (job := self._to_do.get()) is not None:
            try:
                self.decode(job)
                function: Any = self.handler.function
                ending = self.of_result(function(job.message))
            except BaseException as error:
                ending = self.of_error(job, error)
            self.finish(job, ending)
            # Nothing of the message stays with a thread that waits for the next one.
            del job, ending

    def decode(self, job: Job) -> None:
        """Decodes the body by the handler's codec, so that it gets none that does not decode."""
        if self._decodes:
            _ = job.message.value

    def finish(self, job: Job, ending: Exception | None) -> None:
        """Settles what was worked on. Blocks."""
        try:
            self._settle(job, ending)
        except Exception:
            log.exception("%r could not be settled", job.message)
        finally:
            self._done(job)

    def of_result(self, result: object) -> Exception | None:
        """What a handler's result asks for: None to ack, else Retry or Reject."""
        if result is None or result is ConsumeStatus.SUCCESS:
            return None
        if result is ConsumeStatus.RETRY_LATER:
            return Retry()
        raise TypeError(
            f"the handler {self.handler.name} returned {result!r}; it returns None, "
            "keepq.SUCCESS or keepq.RETRY_LATER"
        )

    def of_error(self, job: Job, error: BaseException) -> Exception:
        """What a handler's exception asks for."""
        if isinstance(error, Retry):
            return error
        if isinstance(error, DecodeError):
            log.error("%r is rejected: %s", job.message, error)
            return Reject(_cut(str(error)))
        if isinstance(error, Reject):
            return Reject(_cut(error.reason))
        log.error("the handler %s failed with %r", self.handler.name, job.message, exc_info=error)
        return Retry()

    def _settle(self, job: Job, ending: Exception | None) -> None:
        """Acks, or does what the ending says, unless the handler has settled it itself."""
        pause = _FIRST_PAUSE
        for tries_left in reversed(range(_SETTLE_TRIES)):
            try:
                job.keep.__exit__(None if ending is None else type(ending), ending, None)
                return
            except LeaseLost as error:
                if not job.given_back:
                    log.warning("%r comes again: %s", job.message, error)
                return
            except Error as error:
                if isinstance(error, SendError) or not error.retriable or not tries_left:
                    log.error("%r is not settled and may come again: %s", job.message, error)
                    return
                log.warning("settling %r, again in %g s: %s", job.message, pause, error)
            time.sleep(pause)
            pause *= 2


def _may_pass(error: BaseException) -> bool:
    """Whether the store may go on after an error without being opened again."""
    hopeless = isinstance(error, Closed) or getattr(error, "number", None) in _HOPELESS
    return isinstance(error, Error) and not hopeless


def _cut(reason: str) -> str:
    """As much of a reason as the engine takes."""
    return reason.encode(errors="replace")[:_MAX_REASON].decode(errors="ignore")
