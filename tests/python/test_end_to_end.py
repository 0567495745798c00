"""Open, send, receive, settle: what a program does on a good day."""

from __future__ import annotations

import array
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import keepq
import pytest


def test_a_message_arrives_with_everything_it_was_sent_with(kq: keepq.Store) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    sent = kq.topic("orders").send(
        b'{"id": 1}\0', key="user-42", tag="new", headers={"source": b"web", "empty": bytearray()}
    )
    msg = kq.group("orders", "billing").receive(timeout=5)
    assert msg.body == b'{"id": 1}\0'
    assert type(msg.body) is bytes
    assert (msg.id, msg.seq, msg.topic) == (sent.id, sent.seq, "orders")
    assert (msg.key, msg.tag) == ("user-42", "new")
    assert msg.headers == {"source": b"web", "empty": b""}
    assert msg.attempt == 1
    assert before <= msg.sent_at <= datetime.now(UTC)
    assert msg.sent_at.utcoffset() == timedelta(0)
    assert (msg.producer, msg.producer_seq) == (None, None)
    assert isinstance(msg.receipt, str) and msg.receipt.split() == [msg.receipt]
    msg.ack()
    assert msg.body == b'{"id": 1}\0', "it stays readable after the ack"


def test_a_plain_message_has_no_key_tag_or_headers(kq: keepq.Store) -> None:
    kq.topic("t").send(b"")
    msg = kq.group("t", "g").receive(timeout=5)
    assert (msg.body, msg.key, msg.tag, msg.headers) == (b"", None, None, {})


def test_the_result_of_a_send_says_what_became_of_it(kq: keepq.Store) -> None:
    topic = kq.topic("orders")
    first, second = topic.send(b"a"), topic.send(b"b", flush="async")
    assert (first.seq, second.seq) == (0, 1)
    assert len(first.id) == 16 and int(first.id, 16) < int(second.id, 16)
    assert first.status is keepq.SendStatus.SEND_OK
    assert first.durable is True and first.duplicate is False
    assert first != second
    assert "seq=0" in repr(first)


def test_what_was_sent_is_there_after_opening_again(path: Path) -> None:
    with keepq.open(path) as kq:
        assert kq.recovery.created
        kq.topic("kept").send(b"still here")
    with keepq.open(path, create=False) as kq:
        assert not kq.recovery.created
        msg = kq.group("kept", "g").receive(timeout=5)
        assert msg.body == b"still here"
        msg.ack()


@pytest.mark.parametrize(
    "body",
    [
        b"abcd",
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(b"a-b-c-d-")[::2],
        array.array("B", b"abcd"),
    ],
    ids=["bytes", "bytearray", "memoryview", "strided memoryview", "array"],
)
def test_any_buffer_is_a_body(kq: keepq.Store, body: bytes) -> None:
    kq.topic("t").send(body)
    assert kq.group("t", "g").receive(timeout=5).body == b"abcd"


@pytest.mark.parametrize("body", ["text", None, 7, [1, 2], object()])
def test_what_is_no_buffer_is_refused(kq: keepq.Store, body: object) -> None:
    topic = kq.topic("t")
    with pytest.raises(TypeError):
        topic.send(body)
    with pytest.raises(TypeError):
        topic.send(b"x", headers={"h": body})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        topic.send_many([b"x", body])
    assert len(topic) == 0
    assert topic, "an empty topic is not false"


def test_send_many_sends_bytes_and_messages_in_order(kq: keepq.Store) -> None:
    topic = kq.topic("many")
    result = topic.send_many([b"a", keepq.Msg(b"b", key="k", headers={"h": b"v"}), bytearray(b"c")])
    assert [r.seq for r in result.ok] == [0, 1, 2]
    assert result.failed == []
    assert len(result) == len(topic) == 3
    messages = kq.group("many", "g").receive_batch(10, timeout=5)
    assert [m.body for m in messages] == [b"a", b"b", b"c"]
    assert messages[1].key == "k" and messages[1].headers == {"h": b"v"}
    assert topic.send_many([]).ok == []
    for wrong in (b"ab", "ab"):
        with pytest.raises(TypeError):
            topic.send_many(wrong)


def test_send_many_tells_which_message_was_refused(kq: keepq.Store) -> None:
    result = kq.topic("many").send_many([b"a", keepq.Msg(b"b", key="k" * 256), b"c"])
    assert len(result.ok) == 2
    [(index, error)] = result.failed
    assert index == 1
    assert isinstance(error, keepq.LimitExceeded) and error.outcome == "not_stored"


def test_receive_raises_empty_and_poll_gives_none(kq: keepq.Store) -> None:
    group = kq.group("nothing", "g")
    with pytest.raises(keepq.Empty):
        group.receive(timeout=0)
    with pytest.raises(keepq.Empty):
        group.receive(timeout=timedelta(milliseconds=150))
    assert group.poll() is None
    assert group.receive_batch(5, timeout=0) == []
    assert group.qsize() == 0


def test_every_group_gets_every_message(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    for name in ("a", "b"):
        group = kq.group("t", name)
        group.receive(timeout=5).ack()
        assert group.poll() is None


def test_a_nacked_or_dropped_message_comes_again(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g")
    group.receive(timeout=5).nack(0)
    msg = group.receive(timeout=5)
    assert msg.attempt == 2
    del msg
    again = group.receive(timeout=5)
    assert again.attempt == 3
    again.nack(60)
    assert group.poll() is None
    assert group.stats().delayed == 1


def test_a_rejected_message_becomes_a_dead_letter(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g")
    group.receive(timeout=5).reject("no good")
    assert group.poll() is None
    assert group.stats().dead == 1


def test_a_message_is_settled_once(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    msg = kq.group("t", "g").receive(timeout=5)
    msg.extend(60)
    msg.ack(flush="sync")
    again: list[Callable[[], None]] = [
        msg.ack,
        msg.nack,
        lambda: msg.reject("r"),
        lambda: msg.extend(1),
    ]
    for settle in again:
        with pytest.raises(keepq.LeaseLost):
            settle()


def test_ack_many_acks_all_it_can_and_tells_of_the_rest(kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"a", b"b", b"c"])
    group = kq.group("t", "g")
    messages = group.receive_batch(10, timeout=5)
    messages[1].ack()
    with pytest.raises(keepq.LeaseLost) as caught:
        group.ack_many(messages)
    assert caught.value.__notes__ == ["1 of 3 acks failed"]
    assert group.stats().in_flight == 0
    group.ack_many([])


def test_with_acks_on_success_and_nacks_on_an_exception(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g", backoff=keepq.Backoff(first=0.001, jitter=0))
    with pytest.raises(RuntimeError, match="on purpose"), group.receive(timeout=5):
        raise RuntimeError("on purpose")
    with group.receive(timeout=5) as msg:
        assert msg.attempt == 2
        raise keepq.Retry(delay=0)
    with group.receive(timeout=5) as msg:
        assert msg.attempt == 3
    assert group.poll() is None
    stats = group.stats()
    assert (stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0)


def test_with_rejects_when_told_and_leaves_a_settled_message_alone(kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"a", b"b"])
    group = kq.group("t", "g")
    with group.receive(timeout=5):
        raise keepq.Reject("no good")
    with group.receive(timeout=5) as msg:
        msg.ack()
    assert group.stats().dead == 1
    assert group.poll() is None


def test_a_settlement_that_is_refused_leaves_the_message_to_the_with_block(
    kq: keepq.Store,
) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g", backoff=keepq.Backoff(first=0.01))
    with pytest.raises(keepq.LimitExceeded), group.receive(timeout=5) as msg:
        msg.reject("r" * 1025)
    with group.receive(timeout=5) as again:
        assert (again.id, again.attempt) == (msg.id, 2)
        assert again.body == msg.body == b"x"


def test_a_receipt_settles_from_outside(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    ways: list[Callable[[str], None]] = [
        kq.ack,
        lambda receipt: kq.reject(receipt, "no good"),
        lambda receipt: kq.nack(receipt, delay=60),
    ]
    for settle in ways:
        topic.send(b"x")
        msg = group.receive(timeout=5)
        kq.extend(msg.receipt, 60)
        settle(msg.receipt)
        with pytest.raises(keepq.LeaseLost):
            kq.ack(msg.receipt)
        with pytest.raises(keepq.LeaseLost):
            msg.ack()
    assert group.poll() is None
    with pytest.raises(keepq.InvalidArgument):
        kq.ack("not a receipt")


def test_producers_number_their_messages(kq: keepq.Store) -> None:
    loader = kq.producer("loader")
    assert (loader.name, loader.next_seq) == ("loader", 0)
    first = loader.send("lines", b"line 0", seq=0)
    assert not first.duplicate
    again = loader.send("lines", b"line 0", seq=0)
    assert again.duplicate and again.seq == first.seq
    loader.send(kq.topic("lines"), b"line 1")
    assert loader.next_seq == 2
    with pytest.raises(keepq.ProducerGap):
        loader.send("lines", b"line 9", seq=9)
    assert [r.duplicate for r in loader.send_many("lines", [b"line 1", b"line 2"], first=1).ok] == [
        True,
        False,
    ]
    msg = kq.group("lines", "g").receive(timeout=5)
    assert (msg.producer, msg.producer_seq) == ("loader", 0)
    newer = kq.producer("loader")
    assert newer.next_seq == 3
    with pytest.raises(keepq.ProducerFenced):
        loader.send("lines", b"line 3")


def test_stats_and_verify_tell_what_is_there(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    topic.send_many([b"a", b"b", b"c"])
    kq.flush(timeout=10)
    held = group.receive(timeout=5)
    stats = group.stats()
    assert (stats.topic, stats.name) == ("t", "g")
    assert (stats.ready, stats.in_flight, group.qsize()) == (2, 1, 2)
    everything = kq.stats()
    assert [t.name for t in everything.topics] == ["t"]
    assert [(g.topic, g.name) for g in everything.groups] == [("t", "g")]
    assert everything.durable <= everything.tail
    report = kq.verify()
    assert report.ok and report.messages == 3
    held.ack()


def test_a_group_can_start_late_or_at_a_sequence(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    topic.send_many([b"0", b"1", b"2"])
    assert kq.group("t", "late", start="latest").poll() is None
    assert kq.group("t", "second", start=1).receive(timeout=5).body == b"1"
    assert kq.group("t", "first", start="earliest").receive(timeout=5).body == b"0"
    with pytest.raises(keepq.InvalidArgument):
        kq.group("t", "g", start="yesterday")  # type: ignore[arg-type]


def test_everything_public_is_documented() -> None:
    for name in keepq.__all__:
        thing = getattr(keepq, name)
        if name == "__version__":
            continue
        assert thing.__doc__, name
        if not inspect.isclass(thing):
            continue
        for member, value in vars(thing).items():
            if not member.startswith("_") and (callable(value) or inspect.isdatadescriptor(value)):
                # What a dataclass keeps its fields in is documented by the class.
                if inspect.ismemberdescriptor(value):
                    continue
                assert value.__doc__, f"{name}.{member}"
