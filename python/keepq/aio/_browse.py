"""Looking at messages without claiming them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, Self, TypeVar

from .. import _keepq
from .._keepq import DeadLetter
from ._hands import Hands

T = TypeVar("T")

# How many are read at a time.
_PIECE = 64


class Browse(AsyncIterator[T], Generic[T]):
    """What there is, one after the other: to be used in `async for`. Reads off the loop."""

    def __init__(self, hands: Hands, begin: Callable[[], Awaitable[Iterator[T]]]) -> None:
        self._hands = hands
        self._begin = begin
        self._native: Iterator[T] | None = None
        self._read: list[T] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._read:
            if self._native is None:
                self._native = await self._begin()
            piece = itertools.islice(self._native, _PIECE)
            self._read = (await self._hands.wait(lambda: list(piece)))[::-1]
            if not self._read:
                raise StopAsyncIteration
        return self._read.pop()


class DeadLetters:
    """The messages a group gave up. Made by Group.dlq; `async for` over it shows all of them."""

    def __init__(self, hands: Hands, native: Callable[[], Awaitable[_keepq.DeadLetters]]) -> None:
        self._hands = hands
        self._native = native

    def browse(self, limit: int | None = None, *, start: int = 0) -> Browse[DeadLetter]:
        """Shows them, the oldest first; as keepq.DeadLetters.browse."""

        async def begin() -> Iterator[DeadLetter]:
            native = await self._native()
            return await self._hands.wait(lambda: native.browse(limit, start=start))

        return Browse(self._hands, begin)

    async def get(self, id: str) -> DeadLetter | None:
        """The one with this id, or None."""
        native = await self._native()
        return await self._hands.wait(lambda: native.get(id))

    async def purge(self, which: DeadLetter | str | None = None) -> int:
        """Removes one, or all; how many there were. As keepq.DeadLetters.purge."""
        native = await self._native()
        return await self._hands.wait(lambda: native.purge(which))

    async def count(self) -> int:
        """How many there are."""
        native = await self._native()
        return await self._hands.wait(lambda: len(native))

    def __aiter__(self) -> Browse[DeadLetter]:
        return self.browse()
