"""keepq.aio: the same as keepq, awaited; and cancelling an await loses nothing."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import keepq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keepq import aio

Run = Callable[..., subprocess.Popen[str]]

LOOPS: dict[str, Any] = {"asyncio": asyncio.new_event_loop}
try:
    uvloop: Any = importlib.import_module("uvloop")
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(params=LOOPS, autouse=True)
def loop(request: pytest.FixtureRequest) -> Any:
    """What makes the loop: every test runs under every one there is (see conftest.py)."""
    return LOOPS[request.param]


@pytest.fixture
def kq(path: Path) -> aio.Opening:
    """A store, which is opened for the test."""
    return aio.open(path)


# Sends without end.
SENDER = """
import sys, keepq
topic = keepq.open(sys.argv[1]).topic("t")
print("sends", flush=True)
while True:
    topic.send(b"x", flush="async")
"""


class Ticks:
    """Counts how often the loop came round, and the longest it did not."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Ticks:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def _tick(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()


async def waits(task: asyncio.Task[Any]) -> None:
    """Lets a task come to where it waits."""
    for _ in range(10):
        await asyncio.sleep(0.005)
        assert not task.done()


async def test_a_message_arrives_with_everything_it_was_sent_with(kq: aio.Store) -> None:
    sent = await kq.topic("orders").send(b"hello", key="k", tag="t", headers={"h": b"v"})
    assert (sent.seq, sent.durable, sent.status) == (0, True, keepq.SendStatus.SEND_OK)
    group = kq.group("orders", "billing")
    msg = await group.receive(timeout=5)
    assert (msg.body, msg.value, msg.id, msg.seq) == (b"hello", b"hello", sent.id, 0)
    assert (msg.topic, msg.key, msg.tag, msg.headers) == ("orders", "k", "t", {"h": b"v"})
    assert (msg.attempt, msg.producer, msg.producer_seq) == (1, None, None)
    assert msg.sent_at.utcoffset() == timedelta(0) and msg.receipt
    await msg.extend(60)
    await msg.ack()
    with pytest.raises(keepq.LeaseLost):
        await msg.ack()
    assert await group.poll() is None
    assert "keepq.aio.Message" in repr(msg)


async def test_a_store_can_be_awaited_and_closed(path: Path) -> None:
    kq = await aio.open(path, flush="async")
    assert kq.path == path and kq.recovery.created
    topic, group = kq.topic("t"), kq.group("t", "g")
    await topic.send(b"x")
    await kq.flush(timeout=30)
    msg = await group.receive()
    await kq.close()
    await kq.close()
    uses: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: topic.send(b"x"),
        group.receive,
        msg.ack,
        kq.stats,
    ]
    for use in uses:
        with pytest.raises(keepq.Closed):
            await use()
    with pytest.raises(keepq.NotFound):
        await aio.open(path / "none", create=False)


async def test_every_settlement_does_what_it_says(kq: aio.Store) -> None:
    topic = kq.topic("t")
    group = kq.group("t", "g", backoff=keepq.Backoff(first=0.01, jitter=0))
    await topic.send_many([b"a", keepq.Msg(b"b"), b"c"])
    first, *others = await group.receive_batch(10, timeout=5)
    await first.nack(0)
    await first_again(group, 2)
    await group.ack_many(others)
    msg = await group.receive(timeout=5)
    await msg.reject("no good")
    stats = await group.stats()
    assert (stats.ready, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0, 1)
    assert await topic.count() == 3
    for settle in (kq.ack, lambda r: kq.reject(r, "no"), lambda r: kq.nack(r, 60)):
        await topic.send(b"x")
        msg = await group.receive(timeout=5)
        await kq.extend(msg.receipt, 60)
        await settle(msg.receipt)
        with pytest.raises(keepq.LeaseLost):
            await msg.ack()
    assert await group.qsize() == 0
    assert (await kq.verify()).ok


async def first_again(group: aio.Group, attempt: int) -> None:
    """The next message is a given attempt; it is given back with the back-off."""
    msg = await group.receive(timeout=5)
    assert msg.attempt == attempt
    await msg.nack()


@pytest.mark.parametrize("ack_flush", ["async", "sync"])
async def test_a_with_block_settles(kq: aio.Store, ack_flush: Any) -> None:
    topic = kq.topic("t")
    backoff = keepq.Backoff(first=0.01, jitter=0)
    group = kq.group("t", "g", backoff=backoff, ack_flush=ack_flush)
    await topic.send(b"x")
    with pytest.raises(RuntimeError):
        async with await group.receive(timeout=5):
            raise RuntimeError("on purpose")
    async with await group.receive(timeout=5) as msg:
        assert msg.attempt == 2
        raise keepq.Retry(delay=0)
    with pytest.raises(asyncio.CancelledError):
        async with await group.receive(timeout=5) as msg:
            assert msg.attempt == 3
            raise asyncio.CancelledError
    async with await group.receive(timeout=0) as msg:
        assert msg.attempt == 4, "a cancelled block gave it back at once"
    await topic.send(b"y")
    async with await group.receive(timeout=5):
        raise keepq.Reject("no good")
    stats = await group.stats()
    assert (stats.ready, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0, 1)


async def test_a_lease_is_kept_in_a_keep_alive_block(kq: aio.Store) -> None:
    group, other = kq.group("t", "g", lease=2), kq.group("t", "g")
    await kq.topic("t").send(b"x")
    msg = await group.receive(timeout=5)
    async with msg.keep_alive():
        with pytest.raises(keepq.Empty):
            await other.receive(timeout=5)
    assert await other.poll() is None
    with pytest.raises(keepq.LeaseLost):
        await msg.ack()


async def test_messages_and_dead_letters_are_looked_at(kq: aio.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g", max_attempts=5)
    results = (await topic.send_many([b"%d" % n for n in range(150)])).ok
    assert [item.body async for item in topic.browse()] == [b"%d" % n for n in range(150)]
    assert [item.seq async for item in topic.browse(start=140, limit=3)] == [140, 141, 142]
    found = await kq.find(results[7].id)
    assert found is not None and found.body == b"7"
    for _ in range(3):
        await (await group.receive(timeout=5)).reject("no good")
    assert [letter.reason async for letter in group.dlq] == ["no good"] * 3
    [second] = [letter async for letter in group.dlq.browse(1, start=1)]
    assert second.body == b"1" and await group.dlq.count() == 3
    one = await group.dlq.get(second.id)
    assert one is not None and one.body == b"1"
    assert await group.dlq.purge(one) == 1 and await group.dlq.purge() == 2
    assert (await group.config()).max_attempts == 5
    assert (await group.configure(max_attempts=6)).max_attempts == 6


async def test_producers_number_their_messages(kq: aio.Store) -> None:
    lazy = kq.producer("loader")
    with pytest.raises(RuntimeError, match="not open"):
        _ = lazy.next_seq
    loader = await lazy
    assert (loader.name, loader.next_seq) == ("loader", 0)
    assert not (await loader.send("t", b"0", seq=0)).duplicate
    assert (await loader.send(kq.topic("t"), b"0", seq=0)).duplicate
    assert [r.duplicate for r in (await loader.send_many("t", [b"0", b"1"], first=0)).ok] == [
        True,
        False,
    ]
    await loader.send_oneway("t", b"2")
    assert loader.next_seq == 3
    with pytest.raises(keepq.ProducerGap):
        await loader.send("t", b"9", seq=9)
    msg = await kq.group("t", "g").receive(timeout=5)
    assert (msg.producer, msg.producer_seq) == ("loader", 0)
    await kq.producer("loader")
    with pytest.raises(keepq.ProducerFenced):
        await loader.send("t", b"3")


async def test_codecs_belong_to_handles(path: Path) -> None:
    async with aio.open(path, codec="json") as kq:
        await kq.topic("t").send({"id": 1})
        await kq.topic("t", codec="str").send("two")
        group = kq.group("t", "g")
        messages = [await group.receive(timeout=5) for _ in range(2)]
        assert [msg.value for msg in messages] == [{"id": 1}, "two"]
        with pytest.raises(TypeError):
            await kq.topic("t").send(b"bytes")
        with pytest.raises(keepq.InvalidArgument):
            await kq.topic("t", codec="yaml")  # type: ignore[arg-type]


async def test_what_cannot_be_opened_is_told_by_its_first_use(kq: aio.Store) -> None:
    with pytest.raises(keepq.InvalidName):
        await kq.topic("a/b").send(b"x")
    group = kq.group("t", "g", create=False)
    with pytest.raises(keepq.NotFound):
        await group.poll()
    await kq.group("t", "g")
    assert await group.poll() is None, "it is tried again"
    with pytest.raises(keepq.ConfigMismatch):
        await kq.group("t", "g", max_attempts=3)
    with pytest.raises(TypeError):
        await kq.topic("t", colour="red")  # type: ignore[call-arg]


async def test_sends_of_many_tasks_share_flushes_and_keep_their_order(kq: aio.Store) -> None:
    topic, group = await kq.topic("t"), await kq.group("t", "g")
    bodies = [b"%d" % n for n in range(300)]
    # How many share a flush is a matter of how fast the disk is beside the loop; that they do, is
    # not.
    for attempt in range(50):
        before = (await kq.stats()).flushes
        results = await asyncio.gather(*(topic.send(body) for body in bodies))
        flushes = (await kq.stats()).flushes - before
        first = attempt * 300
        assert [r.seq for r in results] == list(range(first, first + 300))
        assert all(r.durable for r in results)
        got: list[aio.Message] = []
        while len(got) < 300:
            got += await group.receive_batch(1000, timeout=60)
        assert [msg.body for msg in got] == bodies
        await group.ack_many(got)
        if flushes < 200:
            return
    pytest.fail("no sends share a flush")


async def test_more_sends_than_may_be_in_flight_wait_for_room_off_the_loop(path: Path) -> None:
    async with aio.open(path, max_in_flight=4) as kq:
        topic = await kq.topic("t")
        async with Ticks() as ticks:
            results = await asyncio.gather(*(topic.send(b"x") for _ in range(200)))
        assert sorted(r.seq for r in results if r.seq is not None) == list(range(200))
        assert ticks.longest < 30


async def test_a_receive_waits_for_a_message_of_another_process(
    kq: aio.Store, path: Path, run_python: Run
) -> None:
    group = await kq.group("t", "g")
    receiving = asyncio.create_task(group.receive())
    await waits(receiving)
    run_python(
        "import sys, keepq\nwith keepq.open(sys.argv[1]) as kq: kq.topic('t').send(b'x')", path
    )
    assert (await asyncio.wait_for(receiving, 60)).body == b"x"


async def test_a_time_out_is_waited_for(kq: aio.Store) -> None:
    group = await kq.group("t", "g")
    for timeout in (0.2, timedelta(milliseconds=200)):
        before = time.monotonic()
        with pytest.raises(keepq.Empty):
            await group.receive(timeout=timeout)
        assert await group.receive_batch(3, timeout=0) == []
        assert 0.2 <= time.monotonic() - before < 60
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="duration"):
            await group.receive(timeout=wrong)


async def test_everybody_who_waits_gets_one(kq: aio.Store) -> None:
    topic, group = await kq.topic("t"), await kq.group("t", "g")
    receiving = [asyncio.create_task(group.receive(timeout=60)) for _ in range(20)]
    await waits(receiving[0])
    await topic.send_many([b"%d" % n for n in range(20)])
    got = await asyncio.gather(*receiving)
    assert sorted(int(msg.body) for msg in got) == list(range(20))


async def test_iterations_end_with_the_group(kq: aio.Store) -> None:
    await kq.topic("t").send_many([b"a", b"b"])
    group, seen = kq.group("t", "g"), []

    async def consume() -> None:
        async for msg in group:
            async with msg:
                seen.append(msg.body)

    tasks = [asyncio.create_task(consume()) for _ in range(2)]
    while len(seen) < 2:
        await asyncio.sleep(0.001)
    async with group:
        pass
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert sorted(seen) == [b"a", b"b"]
    with pytest.raises(keepq.Closed):
        await group.receive()


async def test_a_closed_store_ends_what_waits(path: Path) -> None:
    kq = await aio.open(path)
    group = await kq.group("t", "g")
    receiving = asyncio.create_task(group.receive())
    await waits(receiving)
    await kq.close()
    with pytest.raises(keepq.Closed):
        await asyncio.wait_for(receiving, 30)


async def test_a_store_belongs_to_its_loop(kq: aio.Store) -> None:
    group, topic = await kq.group("t", "g"), await kq.topic("t")

    def elsewhere() -> None:
        async def use() -> None:
            for call in (group.poll, lambda: topic.send(b"x")):
                with pytest.raises(RuntimeError, match="belongs to the event loop"):
                    await call()

        asyncio.run(use())

    await asyncio.to_thread(elsewhere)
    assert await topic.count() == 0


async def test_a_cancelled_receive_has_claimed_nothing(kq: aio.Store) -> None:
    group = await kq.group("t", "g")
    receiving = asyncio.create_task(group.receive())
    await waits(receiving)
    # Both in one step of the loop: the message is there before the task can know.
    sent = threading.Thread(target=lambda: keepq.open(kq.path).topic("t").send(b"x"))
    sent.start()
    sent.join()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    msg = await group.receive(timeout=0)
    assert (msg.body, msg.attempt) == (b"x", 1)


async def test_a_cancelled_settlement_is_made_all_the_same(kq: aio.Store) -> None:
    await kq.topic("t").send(b"x")
    group = await kq.group("t", "g")
    msg = await group.receive(timeout=5)
    acking = asyncio.create_task(msg.ack())
    await asyncio.sleep(0)
    acking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acking
    # In its turn behind the ack.
    assert (await group.stats()).in_flight == 0
    assert await group.poll() is None


async def test_a_cancelled_send_was_made_wholly_or_not_at_all(kq: aio.Store) -> None:
    topic, group = await kq.topic("t"), await kq.group("t", "g")
    sends = [asyncio.create_task(topic.send(b"%d" % n)) for n in range(50)]
    await asyncio.sleep(0)
    for send in sends[::2]:
        send.cancel()
    done = await asyncio.gather(*sends, return_exceptions=True)
    await kq.flush(timeout=30)
    bodies = [msg.body for msg in await group.receive_batch(100, timeout=5)]
    assert len(set(bodies)) == len(bodies) == await topic.count()
    for n, result in enumerate(done):
        assert isinstance(result, asyncio.CancelledError) or b"%d" % n in bodies
        assert n % 2 == 0 or isinstance(result, keepq.SendResult)


async def test_a_cancelled_open_leaves_nothing_open(path: Path) -> None:
    opening = asyncio.create_task(aio.open(path).__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    while not path.exists():
        await asyncio.sleep(0.001)
    async with aio.open(path) as kq:
        while (await kq.stats()).members > 1:
            await asyncio.sleep(0.01)


async def test_the_loop_goes_on_while_the_store_is_held_up(path: Path, run_python: Run) -> None:
    # A process that is stopped while it sends may hold the engine's lock, or nothing.
    async with aio.open(path) as kq:
        topic = await kq.topic("t")
        group = await kq.group("t", "g")
        child = run_python(SENDER, path)
        assert child.stdout is not None and child.stdout.readline() == "sends\n" and child.pid > 1
        async with Ticks() as ticks:
            for _ in range(20):
                child.send_signal(signal.SIGSTOP)
                send = asyncio.create_task(topic.send(b"y", timeout=60))
                await asyncio.sleep(0.02)
                child.send_signal(signal.SIGCONT)
                await send
        assert ticks.longest < 30
        await group.close()


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.just("receive"), st.integers(0, 2)),
        st.tuples(st.just("batch"), st.integers(1, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 100)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
    ),
    max_size=40,
)


def test_cancelling_at_any_point_loses_nothing(tmp_path: Path, loop: Any) -> None:
    numbers = iter(range(10**9))

    # A message that is there, and one that comes while somebody waits for the descriptor; cancelled
    # in the next turn or later.
    @settings(max_examples=30)
    @example([("send", 2), ("receive", 0), ("turn", 1), ("cancel", 0)])
    @example([("send", 3), ("batch", 2), ("turn", 1), ("cancel", 0)])
    @example([("receive", 0), ("turn", 3), ("send", 1), ("turn", 1), ("cancel", 0)])
    @example([("receive", 0), ("receive", 0), ("turn", 3), ("send", 1), ("turn", 2), ("cancel", 0)])
    @example([("receive", 1), ("turn", 3), ("send", 2), ("turn", 3), ("cancel", 0)])
    @given(STEPS)
    def check(steps: list[Step]) -> None:
        place = tmp_path / str(next(numbers))
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(cancel_at_random(place, steps))

    check()


async def cancel_at_random(path: Path, steps: list[Step]) -> None:
    """Sends, receives and cancels; what no receive returned is there for another at once, and was
    never claimed before."""
    async with aio.open(path, flush="async") as kq:
        topic, group = await kq.topic("t"), await kq.group("t", "g")
        tasks: list[asyncio.Task[Any]] = []
        sent = 0
        for what, n in steps:
            if what == "send":
                # Without giving the loop a turn.
                for _ in range(n):
                    assert topic._native.value is not None
                    topic._native.value.send(b"%d" % sent)
                    sent += 1
            elif what == "receive":
                timeout = (None, 0.001, 0)[n]
                tasks.append(asyncio.create_task(group.receive(timeout)))
            elif what == "batch":
                tasks.append(asyncio.create_task(group.receive_batch(n)))
            elif what == "cancel" and tasks:
                tasks[n % len(tasks)].cancel()
            else:
                for _ in range(n):
                    await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        got: list[aio.Message] = []
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, asyncio.CancelledError | keepq.Empty), result
            else:
                got += result if isinstance(result, list) else [result]
        left: list[keepq.Message] = []
        with keepq.open(path) as other:
            while msg := other.group("t", "g").poll():
                left.append(msg)
            assert all(msg.attempt == 1 for msg in left)
            bodies = [msg.body for msg in left] + [msg.body for msg in got]
            assert sorted(map(int, bodies)) == list(range(sent))


def test_everything_public_is_documented() -> None:
    for name in aio.__all__:
        thing = getattr(aio, name)
        assert thing.__doc__, name
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and (callable(value) or inspect.isdatadescriptor(value)):
                assert value.__doc__, f"{name}.{member}"


async def test_a_task_has_the_same_options(kq: aio.Store) -> None:
    group = kq.group("t", "g", tags=["x"], ordered=True, broadcast="me", max_outstanding=9)
    topic = await kq.topic("t")
    await group
    assert group.name == "g%me"
    await topic.send(b"1", tag="y")
    await topic.send(b"2", tag="x", order_key="k")
    await topic.send(b"3", tag="x", order_key="k")
    async with await group.receive(timeout=20) as message:
        assert (message.body, message.order_key) == (b"2", "k")
        assert await group.poll() is None
    assert (await group.receive(timeout=20)).body == b"3"
    await kq.ack_many([])
    config = await group.config()
    assert (config.tags, config.ordered, config.max_outstanding) == (("x",), True, 9)


async def test_a_task_has_a_consumer_without_a_name(kq: aio.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g", broadcast=True, backoff="rocketmq")
    await group
    assert group.name == "g"
    await topic.send(b"1")
    async with await group.receive(timeout=20) as message:
        assert message.body == b"1"
    assert (await group.config()).backoff == "rocketmq"
    stats = await group.stats()
    assert stats.name.startswith("g%%")
    assert (stats.consumers, stats.oldest_age) == (1, None)


async def test_a_task_purges_and_deletes(kq: aio.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    await group
    await topic.send(b"1")
    await topic.send(b"2")
    assert await topic.purge() == 2
    assert await group.poll() is None
    await group.delete()
    with pytest.raises(keepq.NotFound):
        await group.poll()
    await topic.delete()
    with pytest.raises(keepq.NotFound):
        await topic.send(b"3")


async def test_a_task_asks_for_limits_and_changes_them(kq: aio.Store) -> None:
    topic = kq.topic("t", max_messages=1)
    await topic.send(b"1")
    with pytest.raises(keepq.Full):
        await topic.send(b"2")
    assert (await topic.config()).max_messages == 1
    assert (await topic.configure(max_messages=2, retain=5)).retain_bytes == 5
    await topic.send(b"2")
    assert (await kq.configure(max_bytes=1000)).max_bytes == 1000
    assert await kq.config() == keepq.StoreConfig(1000, "raise")
