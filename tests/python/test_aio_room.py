"""keepq.aio: a send that waits for room holds up what is behind it, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import keepq
import pytest
from keepq import aio
from test_aio import LOOPS, waits


@pytest.fixture(params=LOOPS, autouse=True)
def loop(request: pytest.FixtureRequest) -> Any:
    """What makes the loop: every test runs under every one there is (see conftest.py)."""
    return LOOPS[request.param]


@pytest.fixture
def kq(path: Path) -> aio.Opening:
    """A store, which is opened for the test."""
    return aio.open(path)


async def full_topic(kq: aio.Store, name: str) -> aio.Topic:
    """A topic whose sends wait for room: it keeps one message, which is there."""
    topic = await kq.topic(name, max_messages=1, when_full="block")
    await topic.send(b"first")
    return topic


async def test_a_send_that_waits_for_room_holds_up_what_is_behind_it_alone(kq: aio.Store) -> None:
    full, other = await full_topic(kq, "full"), await kq.topic("other")
    producer, group = kq.producer("p"), await kq.group("full", "g")
    bodies = [b"%d" % n for n in range(6)]
    sends: list[Coroutine[Any, Any, Any]] = [full.send(body, timeout=600) for body in bodies[:5]]
    sends.append(full.send_oneway(bodies[5], timeout=600))
    waiting = [asyncio.create_task(send) for send in sends]
    await waits(waiting[0])
    started = time.monotonic()
    for _ in range(20):
        await other.send(b"x")
        await other.send_oneway(b"x")
        await producer.send("other", b"x")
        await group.stats()
    assert time.monotonic() - started < 100 and not any(task.done() for task in waiting)
    got: list[bytes] = []
    while len(got) < 7:
        async with await group.receive(timeout=60) as message:
            got.append(message.body)
    await asyncio.gather(*waiting)
    assert got == [b"first", *bodies]


async def test_a_wait_for_room_ends_with_its_time_also_behind_others(kq: aio.Store) -> None:
    topic, producer = await full_topic(kq, "t"), await kq.producer("p")
    first = asyncio.create_task(topic.send(b"x", timeout=None))
    await waits(first)
    sends: list[Coroutine[Any, Any, Any]] = [
        topic.send(b"x", timeout=0.1),
        topic.send(b"x", timeout=timedelta(milliseconds=100)),
        topic.send(b"x", timeout=0),
        producer.send(topic, b"x", timeout=0.1),
    ]
    for send in sends:
        with pytest.raises(keepq.Timeout, match="max_messages") as caught:
            await send
        assert caught.value.outcome == "not_stored"
    await topic.send_oneway(b"x", timeout=0.1)
    await producer.send_oneway(topic, b"x", timeout=0.1)
    with pytest.raises(ValueError, match="duration"):
        await producer.send(topic, b"x", timeout=-1)
    assert (await kq.stats()).oneway_failed == 2
    assert (await topic.count(), producer.next_seq, first.done()) == (1, 0, False)
    await kq.close()
    with pytest.raises(keepq.Closed):
        await first


async def test_a_cancelled_wait_for_room_sends_nothing(kq: aio.Store) -> None:
    topic, group = await full_topic(kq, "t"), await kq.group("t", "g")
    waiting = [asyncio.create_task(topic.send(b"%d" % n, timeout=60)) for n in range(3)]
    await waits(waiting[2])
    waiting[0].cancel()
    waiting[1].cancel()
    got: list[bytes] = []
    while len(got) < 2:
        async with await group.receive(timeout=60) as message:
            got.append(message.body)
    assert (await waiting[2]).seq == 1
    assert got == [b"first", b"2"]
