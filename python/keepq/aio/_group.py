"""Consumer groups and messages.

A receive that finds nothing waits for the group's descriptor. When it is readable one waiting
receive is woken, which claims by itself: there is no moment in which a message is claimed and its
receiver can be cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from .. import _keepq
from .._errors import Closed, Empty, Retry
from .._types import Duration, Flush, GroupConfig, GroupStats
from ._browse import DeadLetters
from ._hands import Hands, Once, like

T = TypeVar("T")

_Leave = Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], bool]


class Message:
    """A received message under a lease: settle it, or use it in an async with statement. One that
    is dropped unsettled is given back at once."""

    def __init__(self, hands: Hands, native: _keepq.Message, acks_sync: bool) -> None:
        self._hands = hands
        self._native = native
        self._acks_sync = acks_sync

    @property
    def body(self) -> bytes:
        """The body."""
        return self._native.body

    @property
    def value(self) -> Any:
        """The value of the body, decoded; as keepq.Message.value."""
        return self._native.value

    @property
    def id(self) -> str:
        """The identity: 16 hexadecimal digits, the same through all deliveries."""
        return self._native.id

    @property
    def seq(self) -> int:
        """The sequence in the topic, from 0."""
        return self._native.seq

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._native.topic

    @property
    def key(self) -> str | None:
        """The key, or None."""
        return self._native.key

    @property
    def tag(self) -> str | None:
        """The tag, or None."""
        return self._native.tag

    @property
    def order_key(self) -> str | None:
        """The order key, or None."""
        return self._native.order_key

    @property
    def headers(self) -> dict[str, bytes]:
        """The headers."""
        return self._native.headers

    @property
    def attempt(self) -> int:
        """Which delivery of the message this is, from 1."""
        return self._native.attempt

    @property
    def sent_at(self) -> datetime:
        """When it was sent: an aware datetime in UTC."""
        return self._native.sent_at

    @property
    def producer(self) -> str | None:
        """The name of the producer that sent it, or None."""
        return self._native.producer

    @property
    def producer_seq(self) -> int | None:
        """Its sequence from that producer, or None."""
        return self._native.producer_seq

    @property
    def receipt(self) -> str:
        """A str with which any process can settle this delivery."""
        return self._native.receipt

    async def ack(self, *, flush: Flush | None = None) -> None:
        """Done: the group does not get it again. Raises LeaseLost when the lease had ended."""
        sync = self._acks_sync if flush is None else flush == "sync"
        await self._settle(lambda: self._native.ack(flush=flush), sync)

    async def nack(self, delay: Duration | None = None) -> None:
        """Not done: it comes again after delay; None = the group's back-off, 0 = at once."""
        await self._settle(lambda: self._native.nack(delay))

    async def reject(self, reason: str) -> None:
        """Never again: it becomes a dead letter of the group, with this reason."""
        await self._settle(lambda: self._native.reject(reason), self._acks_sync)

    async def extend(self, lease: Duration) -> None:
        """Keeps it for so many seconds from now on."""
        await self._settle(lambda: self._native.extend(lease))

    async def _settle(self, settle: Callable[[], T], sync: bool = False) -> T:
        if sync:
            return await self._hands.wait(settle)
        return await self._hands.call(settle, always=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _exc_type: type[BaseException] | None,
        exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        """Settles what the block did not: ack, or nack after an exception; keepq.Retry and
        keepq.Reject do what they say. A cancelled block has it come again at once."""
        return await self._leave(self._native.__exit__, exc)

    async def _leave(self, leave: _Leave, exc: BaseException | None) -> bool:
        if isinstance(exc, asyncio.CancelledError):
            again = Retry(0)
            await self._settle(lambda: leave(Retry, again, None))
            return False
        kind = None if exc is None else type(exc)
        return await self._settle(lambda: leave(kind, exc, None), self._acks_sync)

    @asynccontextmanager
    async def keep_alive(self, lease: Duration | None = None) -> AsyncIterator[Self]:
        """As `async with msg:`, and the lease is extended as long as the block runs, by lease
        seconds each time; None = the group's."""
        keep = self._native.keep_alive(lease)
        await self._settle(keep.__enter__)
        try:
            yield self
        except BaseException as exc:
            if not await self._leave(keep.__exit__, exc):
                raise
        else:
            await self._leave(keep.__exit__, None)

    def __repr__(self) -> str:
        return repr(self._native).replace("<keepq.", "<keepq.aio.", 1)


class Group:
    """A consumer group: every group gets every message of its topic, its members share them. Made
    by Store.group. `async for` over it receives for ever, until close()."""

    def __init__(
        self, hands: Hands, topic: str, name: str, make: Callable[[], _keepq.Group]
    ) -> None:
        self.topic = topic
        """The name of its topic."""
        self.name = name
        """The group's name; of a broadcast group "group%consumer", unless it has no name."""
        self._hands = hands

        def open() -> tuple[_keepq.Group, bool]:
            native = make()
            # Its thread is started off the loop, too.
            native.fileno()
            return native, native.config().ack_flush == "sync"

        self._native = Once(hands, open)
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._watched: int | None = None
        self._closed = False

    def __await__(self) -> Generator[Any, None, Self]:
        """Opens it."""
        yield from self._native.get().__await__()
        return self

    async def receive(self, timeout: Duration | None = None, *, detached: bool = False) -> Message:
        """Receives one message under a lease; raises Empty when timeout seconds are over (None =
        wait for ever, 0 = try once). Otherwise as keepq.Group.receive."""
        got = await self._receive(lambda native: native.poll(detached=detached), timeout)
        if got is None:
            raise Empty("no message came within the time")
        return got[0]

    async def poll(self, *, detached: bool = False) -> Message | None:
        """Receives a message that is there now, else returns None."""
        got = await self._receive(lambda native: native.poll(detached=detached), 0)
        return None if got is None else got[0]

    async def receive_batch(
        self, max: int, timeout: Duration | None = None, *, detached: bool = False
    ) -> list[Message]:
        """Receives up to max messages (1 to 1,024): waits for the first, takes what else is there.
        An empty list when timeout seconds are over."""
        take = lambda native: native.receive_batch(max, 0, detached=detached)
        return await self._receive(take, timeout) or []

    async def _receive(
        self,
        take: Callable[[_keepq.Group], _keepq.Message | list[_keepq.Message] | None],
        timeout: Duration | None,
    ) -> list[Message] | None:
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"{timeout} is not a duration: 0 s or more")
        # Not the loop's clock: uvloop's stands still within a turn, and would end a wait too early.
        deadline = None if timeout is None else time.monotonic() + timeout
        native, acks_sync = await self._native.get()
        while True:
            self._hands.check()
            if self._closed:
                raise Closed(f"the group {self.name!r} was closed", number=601, name="Closed")
            # From here to the return there is no await: what is claimed is returned.
            got = take(native)
            if got:
                messages = got if isinstance(got, list) else [got]
                return [Message(self._hands, message, acks_sync) for message in messages]
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            await self._ready(native, left)

    async def _ready(self, native: _keepq.Group, timeout: float | None) -> None:
        """Waits until there may be something, or the time is over."""
        loop = self._hands.loop
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        timer = None if timeout is None else loop.call_later(timeout, _wake, waiter)
        try:
            if self._watched is None:
                self._watched = native.fileno()
                loop.add_reader(self._watched, self._readable)
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if not self._waiters:
                self._unwatch()

    def _readable(self) -> None:
        """Wakes the first who waits. The descriptor stays readable until a receive finds nothing,
        so that the next is woken when this one gives up, or there is more."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        if not self._waiters:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._hands.loop.remove_reader(self._watched)
            self._watched = None

    async def ack_many(self, messages: Iterable[Message]) -> None:
        """Acknowledges many messages at once; as keepq.Group.ack_many."""
        native, _ = await self._native.get()
        natives = [message._native for message in messages]
        await self._hands.wait(lambda: native.ack_many(natives))

    @property
    def dlq(self) -> DeadLetters:
        """Its dead letters."""

        async def native() -> _keepq.DeadLetters:
            group, _ = await self._native.get()
            return group.dlq

        return DeadLetters(self._hands, native)

    async def config(self) -> GroupConfig:
        """The options of the group, as they are stored."""
        native, _ = await self._native.get()
        return await self._hands.wait(native.config)

    @like(_keepq.Group.configure)
    async def configure(self, **options: Any) -> GroupConfig:
        """Changes options of the group for everybody; as keepq.Group.configure. This handle goes on
        waiting for acks, or not, as it began to."""
        native, _ = await self._native.get()
        return await self._hands.wait(lambda: native.configure(**options))

    async def delete(self) -> None:
        """Deletes the group with its dead letters; as keepq.Group.delete. Cancelled, it goes on."""
        native, _ = await self._native.get()
        await self._hands.wait(native.delete)

    async def stats(self) -> GroupStats:
        """Counters of the group."""
        native, _ = await self._native.get()
        return await self._hands.call(native.stats)

    async def qsize(self) -> int:
        """How many messages can be received now."""
        native, _ = await self._native.get()
        return await self._hands.call(native.qsize)

    async def close(self) -> None:
        """Closes this handle: receives that wait raise Closed, iterations end. Messages already
        received stay leased. Closing again does nothing."""
        self._closed = True
        for waiter in self._waiters:
            _wake(waiter)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except Closed:
            # Closing the group is how an iteration ends; a closed store is still an error.
            if self._closed:
                raise StopAsyncIteration from None
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<keepq.aio.Group {self.name!r} of {self.topic!r}>"


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
