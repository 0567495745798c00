"""Opening and using a store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .. import _keepq
from .._keepq import Browsed
from .._types import Duration, RecoveryReport, StoreConfig, StoreStats, VerifyReport
from ._group import Group, Message
from ._hands import Hands, like
from ._topic import Producer, Topic


class Store:
    """An open store. Made by keepq.aio.open."""

    def __init__(self, native: _keepq.Store, hands: Hands) -> None:
        self._native = native
        self._hands = hands
        hands.send_timeout = native._send_timeout

    @property
    def path(self) -> Path:
        """The store's directory."""
        return self._native.path

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found and did."""
        return self._native.recovery

    @like(_keepq.Store.topic)
    def topic(self, name: str, **options: Any) -> Topic:
        """A topic; takes what keepq.Store.topic does. Its first use opens it."""
        return Topic(self._hands, name, lambda: self._native.topic(name, **options))

    @like(_keepq.Store.group)
    def group(self, topic: str, name: str, **options: Any) -> Group:
        """A consumer group; takes what keepq.Store.group does. Its first use opens it."""
        consumer = options.get("broadcast")
        shown = f"{name}%{consumer}" if isinstance(consumer, str) else name
        return Group(self._hands, topic, shown, lambda: self._native.group(topic, name, **options))

    def producer(self, name: str) -> Producer:
        """A named producer. Its first use opens it and fences older handles."""
        return Producer(self._hands, name, lambda: self._native.producer(name))

    async def flush(self, timeout: Duration | None = None) -> None:
        """Waits until everything sent and acked before is on disk; raises Timeout, and Full while a
        full disk has no room for acks."""
        await self._hands.wait(lambda: self._native.flush(timeout))

    async def config(self) -> StoreConfig:
        """The store's own options, as they are stored."""
        return await self._hands.wait(self._native.config)

    @like(_keepq.Store.configure)
    async def configure(self, **options: Any) -> StoreConfig:
        """Changes the store's own options for everybody; as keepq.Store.configure."""
        return await self._hands.wait(lambda: self._native.configure(**options))

    async def stats(self) -> StoreStats:
        """Counters of the store, its topics and groups."""
        return await self._hands.wait(self._native.stats)

    async def verify(self) -> VerifyReport:
        """Reads and checks every file of the store."""
        return await self._hands.wait(self._native.verify)

    async def find(self, id: str) -> Browsed | None:
        """The message with this id, if it is still there."""
        return await self._hands.wait(lambda: self._native.find(id))

    async def ack(self, receipt: str) -> None:
        """Acknowledges a message by its receipt."""
        await self._hands.wait(lambda: self._native.ack(receipt))

    async def ack_many(self, messages: Iterable[Message]) -> None:
        """Acknowledges many messages at once, of any groups; as keepq.Store.ack_many."""
        natives = [message._native for message in messages]
        await self._hands.wait(lambda: self._native.ack_many(natives))

    async def nack(self, receipt: str, delay: Duration | None = None) -> None:
        """Gives a message back by its receipt: None = after the group's back-off, 0 = at once."""
        await self._hands.wait(lambda: self._native.nack(receipt, delay))

    async def reject(self, receipt: str, reason: str) -> None:
        """Makes a message a dead letter by its receipt."""
        await self._hands.wait(lambda: self._native.reject(receipt, reason))

    async def extend(self, receipt: str, lease: Duration) -> None:
        """Keeps a message for so many seconds from now on, by its receipt."""
        await self._hands.wait(lambda: self._native.extend(receipt, lease))

    async def close(self) -> None:
        """Makes what was asked for, flushes and closes. Everything made from this store raises
        Closed from now on. Closing again does nothing. Cancelled, it goes on."""
        await self._hands.close(self._native.close)

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
        return repr(self._native).replace("<keepq.", "<keepq.aio.", 1)


class Opening:
    """A store that is being opened: await it, or use it in an async with statement."""

    def __init__(self, open: Callable[[], _keepq.Store]) -> None:
        self._open = open
        self._store: Store | None = None

    def __await__(self) -> Generator[Any, None, Store]:
        return self._opened().__await__()

    async def __aenter__(self) -> Store:
        self._store = await self._opened()
        return self._store

    async def __aexit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._store is not None:
            await self._store.close()

    async def _opened(self) -> Store:
        hands = Hands(asyncio.get_running_loop())
        opening = asyncio.ensure_future(hands.wait(self._open))
        try:
            return Store(await asyncio.shield(opening), hands)
        except asyncio.CancelledError:
            # Nobody will have it: it is closed as soon as it is there.
            opening.add_done_callback(lambda done: _abandon(done, hands))
            raise


def _abandon(opening: asyncio.Future[_keepq.Store], hands: Hands) -> None:
    if not opening.cancelled() and opening.exception() is None:
        hands.loop.run_in_executor(None, opening.result().close)


@like(_keepq.open)
def open(path: str | os.PathLike[str], **options: Any) -> Opening:
    """Opens a store; takes and raises what keepq.open does.

    `async with aio.open(path) as kq:` closes it at the end; `kq = await aio.open(path)` does not.
    """
    return Opening(lambda: _keepq.open(path, **options))
