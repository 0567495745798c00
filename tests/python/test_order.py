"""Order keys, and the options that say which messages a group gets and how many at a time."""

from __future__ import annotations

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
