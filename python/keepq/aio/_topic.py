"""Topics and named producers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator
from concurrent.futures import Future
from typing import Any, Self

from .. import _keepq
from .._keepq import Browsed, SendMany, SendResult
from .._types import TopicConfig
from ._browse import Browse
from ._hands import Hands, Once, like


class Topic:
    """A topic: messages are sent to it. Made by Store.topic."""

    def __init__(self, hands: Hands, name: str, make: Callable[[], _keepq.Topic]) -> None:
        self.name = name
        """The topic's name."""
        self._hands = hands
        self._native = Once(hands, make)

    def __await__(self) -> Generator[Any, None, Self]:
        """Opens it."""
        yield from self._native.get().__await__()
        return self

    @like(_keepq.Topic.send)
    async def send(self, body: Any, **options: Any) -> SendResult:
        """Sends a message; takes, gives and raises what keepq.Topic.send does. Those of one task,
        and of tasks in the order they began, are in the log in that order. While too many wait for
        the disk, or when_full="block" and the topic is full, it waits for room; what is sent
        elsewhere does not wait for it. Cancelled, the message was sent or not."""
        topic = await self._native.get()
        return await _send(self._hands, self.name, topic, (body,), options)

    @like(_keepq.Topic.send)
    async def send_oneway(self, body: Any, **options: Any) -> None:
        """Sends a message and forgets it: it is in the log when this returns."""
        topic = await self._native.get()
        await _send_oneway(self._hands, self.name, topic, (body,), options)

    @like(_keepq.Topic.send_many)
    async def send_many(self, messages: Any, **options: Any) -> SendMany:
        """Sends many messages with one flush, as keepq.Topic.send_many. Cancelled, it goes on."""
        topic = await self._native.get()
        messages = messages if isinstance(messages, bytes | str) else list(messages)
        return await self._hands.wait(lambda: topic.send_many(messages, **options))

    @like(_keepq.Topic.browse)
    def browse(self, **options: Any) -> Browse[Browsed]:
        """Shows its messages without claiming them, in `async for`; takes what keepq.Topic.browse
        does."""

        async def begin() -> Iterator[Browsed]:
            topic = await self._native.get()
            return await self._hands.wait(lambda: topic.browse(**options))

        return Browse(self._hands, begin)

    async def config(self) -> TopicConfig:
        """The options of the topic, as they are stored."""
        topic = await self._native.get()
        return await self._hands.wait(topic.config)

    @like(_keepq.Topic.configure)
    async def configure(self, **options: Any) -> TopicConfig:
        """Changes options of the topic for everybody; as keepq.Topic.configure."""
        topic = await self._native.get()
        return await self._hands.wait(lambda: topic.configure(**options))

    async def purge(self) -> int:
        """Takes away all messages that the topic has now; as keepq.Topic.purge. Cancelled, it goes
        on."""
        topic = await self._native.get()
        return await self._hands.wait(topic.purge)

    async def delete(self) -> None:
        """Deletes the topic with its messages and groups; as keepq.Topic.delete. Cancelled, it goes
        on."""
        topic = await self._native.get()
        await self._hands.wait(topic.delete)

    async def count(self) -> int:
        """How many messages of the topic are kept."""
        topic = await self._native.get()
        return await self._hands.call(lambda: len(topic))

    def __repr__(self) -> str:
        return f"<keepq.aio.Topic {self.name!r}>"


class Producer:
    """A named producer, whose sequences have no gaps. Made by Store.producer."""

    def __init__(self, hands: Hands, name: str, make: Callable[[], _keepq.Producer]) -> None:
        self.name = name
        """The producer's name."""
        self._hands = hands
        self._native = Once(hands, make)

    def __await__(self) -> Generator[Any, None, Self]:
        """Opens it: from then on older handles of the name are fenced."""
        yield from self._native.get().__await__()
        return self

    @property
    def next_seq(self) -> int:
        """The sequence the next new message gets, from 0. Only when it is open."""
        if self._native.value is None:
            raise RuntimeError("the producer is not open yet; await it, or a send of it")
        return self._native.value.next_seq

    async def send(self, topic: str | Topic, body: Any, **options: Any) -> SendResult:
        """Sends a message; takes, gives and raises what keepq.Producer.send does. One that waits
        for room holds up those of this producer alone."""
        producer = await self._native.get()
        to = await self._to(topic)
        return await _send(self._hands, self, producer, (to, body), options)

    async def send_oneway(self, topic: str | Topic, body: Any, **options: Any) -> None:
        """Sends a message and forgets it."""
        producer = await self._native.get()
        to = await self._to(topic)
        await _send_oneway(self._hands, self, producer, (to, body), options)

    async def send_many(self, topic: str | Topic, messages: Any, **options: Any) -> SendMany:
        """Sends many messages with one flush, as keepq.Producer.send_many."""
        producer = await self._native.get()
        to = await self._to(topic)
        messages = messages if isinstance(messages, bytes | str) else list(messages)
        return await self._hands.wait(lambda: producer.send_many(to, messages, **options))

    async def _to(self, topic: str | Topic) -> str | _keepq.Topic:
        return await topic._native.get() if isinstance(topic, Topic) else topic

    def __repr__(self) -> str:
        return f"<keepq.aio.Producer {self.name!r}>"


async def _send(
    hands: Hands,
    line: Hashable,
    native: _keepq.Topic | _keepq.Producer,
    what: tuple[Any, ...],
    options: dict[str, Any],
) -> SendResult:
    """Sends in a line; see Hands.send."""
    send: Callable[..., Future[SendResult]] = native.send_async
    timeout = options.get("timeout", hands.send_timeout)
    return await hands.send(line, lambda: send(*what, _room=0, **options), timeout)


async def _send_oneway(
    hands: Hands,
    line: Hashable,
    native: _keepq.Topic | _keepq.Producer,
    what: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Sends in a line and forgets: what finds no room in its time is counted, told to nobody."""
    send: Callable[..., None] = native.send_oneway
    done: Future[None] = Future()
    done.set_result(None)

    def start() -> Future[None]:
        send(*what, _room=0, **options)
        return done

    def late() -> None:
        send(*what, **{**options, "timeout": 0})

    await hands.send(line, start, options.get("timeout", hands.send_timeout), late)
