"""Order keys, and the options that say which messages a group gets and how many at a time."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import keepq
import pytest


def bodies(messages: list[keepq.Message]) -> list[bytes]:
    return [message.body for message in messages]


def test_an_order_key_comes_with_the_message_however_it_was_sent(kq: keepq.Store) -> None:
    topic, group, producer = kq.topic("t"), kq.group("t", "g"), kq.producer("p")
    topic.send(b"sync", order_key="k1")
    topic.send_async(b"async", order_key="k2").result(30)
    topic.send_oneway(b"oneway", order_key="k3")
    topic.send_many([keepq.Msg(b"many", order_key="k4"), b"none"])
    producer.send(topic, b"p-sync", order_key="k5")
    producer.send_async(topic, b"p-async", order_key="k6").result(30)
    producer.send_oneway(topic, b"p-oneway", order_key="k7")
    producer.send_many("t", [keepq.Msg(b"p-many", order_key="k8")])
    want = {
        b"sync": "k1",
        b"async": "k2",
        b"oneway": "k3",
        b"many": "k4",
        b"none": None,
        b"p-sync": "k5",
        b"p-async": "k6",
        b"p-oneway": "k7",
        b"p-many": "k8",
    }
    assert {item.body: item.order_key for item in topic.browse()} == want
    received = group.receive_batch(20, timeout=5)
    assert {message.body: message.order_key for message in received} == want
    received[0].reject("bad")
    assert next(group.dlq.browse()).order_key == "k1"


def test_an_order_key_has_a_limit(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    topic.send(b"x", order_key="k" * 255)
    with pytest.raises(keepq.LimitExceeded, match="order key"):
        topic.send(b"x", order_key="k" * 256)
    with pytest.raises(TypeError):
        topic.send(b"x", order_key=b"k")  # type: ignore[arg-type]
    assert len(topic) == 1


def test_an_ordered_group_has_one_message_of_a_key_in_flight(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g", ordered=True)
    for body, key in [(b"a1", "a"), (b"a2", "a"), (b"b1", "b"), (b"free", None), (b"a3", "a")]:
        topic.send(body, order_key=key)
    first = {message.body: message for message in group.receive_batch(10, timeout=5)}
    assert set(first) == {b"a1", b"b1", b"free"}
    assert group.poll() is None
    first[b"a1"].nack(0)
    again = group.receive(timeout=5)
    assert (again.body, again.attempt) == (b"a1", 2), "what failed comes before what follows it"
    again.ack()
    second = group.receive(timeout=5)
    assert second.body == b"a2"
    assert group.poll() is None
    second.reject("no")
    assert group.receive(timeout=5).body == b"a3"
    assert group.config().ordered is True
    with pytest.raises(keepq.ConfigMismatch, match="ordered"):
        kq.group("t", "g", ordered=False)
    assert not kq.group("t", "other").config().ordered


def test_tags_filter_what_a_group_gets(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    group = kq.group("t", "g", tags=["paid", "sent", "paid"])
    assert group.config().tags == ("paid", "sent")
    for body, tag in [(b"1", "new"), (b"2", "paid"), (b"3", None), (b"4", "sent")]:
        topic.send(body, tag=tag)
    got = group.receive_batch(10, timeout=5)
    assert bodies(got) == [b"2", b"4"]
    group.ack_many(got)
    assert group.configure(tags=["new"]).tags == ("new",)
    topic.send(b"5", tag="new")
    topic.send(b"6", tag="paid")
    topic.send(b"7", tag="new")
    got = group.receive_batch(10, timeout=5)
    assert bodies(got) == [b"5", b"7"]
    assert group.configure(tags=[]).tags == ()
    topic.send(b"8")
    assert group.receive(timeout=5).body == b"8"
    with pytest.raises(keepq.ConfigMismatch, match="tags"):
        kq.group("t", "g", tags=["paid"])
    with pytest.raises(keepq.LimitExceeded, match="tags"):
        kq.group("t", "h", tags=[str(n) for n in range(17)])
    with pytest.raises(TypeError):
        kq.group("t", "h", tags="paid")


def test_each_broadcast_consumer_gets_every_message_under_its_name(
    path: Path, kq: keepq.Store
) -> None:
    one = kq.group("t", "g", broadcast="one")
    two = kq.group("t", "g", broadcast="two")
    shared = kq.group("t", "g", broadcast=False)
    assert (one.name, two.name, shared.name) == ("g%one", "g%two", "g")
    assert "g%one" in repr(one)
    kq.topic("t").send_many([b"a", b"b"])
    held = {group.name: group.receive_batch(10, timeout=5) for group in (one, two, shared)}
    assert all(bodies(messages) == [b"a", b"b"] for messages in held.values())
    # What becomes of them is a matter of each consumer.
    held["g%one"][0].reject("bad")
    held["g%one"][1].nack(0)
    assert (len(one.dlq), len(two.dlq)) == (1, 0)
    with keepq.open(path) as other:
        kept = other.group("t", "g", broadcast="one", create=False).receive(timeout=5)
        assert (kept.body, kept.attempt) == (b"b", 2)
    assert sorted(group.name for group in kq.stats().groups) == ["g", "g%one", "g%two"]
    with pytest.raises(keepq.InvalidName, match="consumer"):
        kq.group("t", "g", broadcast="no/way")
    with pytest.raises(keepq.NotFound):
        kq.group("t", "g", broadcast="three", create=False)


def test_a_group_stops_at_its_most_messages_in_flight(kq: keepq.Store) -> None:
    group = kq.group("t", "g", max_outstanding=2)
    assert group.config().max_outstanding == 2
    kq.topic("t").send_many([b"1", b"2", b"3", b"4"])
    held = group.receive_batch(10, timeout=5)
    assert bodies(held) == [b"1", b"2"]
    assert group.poll() is None
    held[0].ack()
    held.append(group.receive(timeout=5))
    assert group.poll() is None
    assert group.configure(max_outstanding=3).max_outstanding == 3
    held.append(group.receive(timeout=5))
    assert bodies(held) == [b"1", b"2", b"3", b"4"]
    for wrong in (0, (1 << 20) + 1):
        with pytest.raises(keepq.InvalidArgument, match="max_outstanding"):
            group.configure(max_outstanding=wrong)
    with pytest.raises(keepq.ConfigMismatch, match="max_outstanding"):
        kq.group("t", "g", max_outstanding=2)


def test_a_pickled_group_keeps_its_options(path: Path) -> None:
    with keepq.open(path) as kq:
        group = kq.group("t", "g", tags=["x"], ordered=True, max_outstanding=7, broadcast="me")
        pickled = pickle.dumps(group)
        kq.topic("t").send(b"1", tag="x")
        again: keepq.Group = pickle.loads(pickled)
        assert again.name == "g%me"
        assert again.receive(timeout=5).body == b"1"
        kq.topic("t").delete()
        # It is made as it was asked for.
        anew: keepq.Group = pickle.loads(pickled)
        config = anew.config()
        assert (anew.name, config.tags, config.ordered) == ("g%me", ("x",), True)
        assert config.max_outstanding == 7


def test_a_forked_child_is_the_same_broadcast_consumer(kq: keepq.Store) -> None:
    group = kq.group("t", "g", broadcast="me")
    kq.topic("t").send(b"for me")
    child = os.fork()
    if child == 0:
        try:
            message = group.receive(timeout=60)
            message.ack()
            os._exit(0 if message.body == b"for me" else 3)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert group.poll() is None


def test_workers_take_the_options_of_groups(path: Path) -> None:
    app = keepq.Worker(path)

    @app.handler(
        "t", group="g", tags=["x"], ordered=True, max_outstanding=5, broadcast="w", max_attempts=3
    )
    def handle(message: keepq.Message) -> None:
        seen.append(message.body)
        app.stop()

    seen: list[bytes] = []
    with keepq.open(path) as kq:
        kq.topic("t").send_many([keepq.Msg(b"no", tag="y"), keepq.Msg(b"yes", tag="x")])
        app.run()
        assert seen == [b"yes"]
        config = kq.group("t", "g", broadcast="w", create=False).config()
        assert (config.tags, config.ordered, config.max_outstanding) == (("x",), True, 5)


def test_messages_behind_their_order_key_are_counted_as_parked(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g", ordered=True)
    topic.send_many([keepq.Msg(b"x", order_key="k") for _ in range(3)])
    held = group.receive_batch(10, timeout=5)
    stats = group.stats()
    assert (len(held), stats.in_flight) == (1, 1)
    assert stats.parked + stats.ready == 2
    assert group.poll() is None
    assert group.stats().parked == 2


def test_acks_of_many_groups_at_once(path: Path, kq: keepq.Store) -> None:
    one, two = kq.group("t", "one"), kq.group("u", "two")
    for name in ("t", "u"):
        kq.topic(name).send_many([b"1", b"2"])
    held = one.receive_batch(2, timeout=5) + two.receive_batch(2, timeout=5)
    held[0].ack()
    with pytest.raises(keepq.LeaseLost) as raised:
        kq.ack_many(held)
    assert raised.value.__notes__ == ["1 of 4 acks failed"]
    for group in (one, two):
        stats = group.stats()
        assert (stats.in_flight, stats.ready) == (0, 0), "the others are done"
    kq.ack_many([])
    with keepq.open(path) as other:
        kq.topic("t").send(b"3")
        message = other.group("t", "one").receive(timeout=5)
        with pytest.raises(keepq.InvalidArgument):
            kq.ack_many([message])
        other.ack_many([message])
