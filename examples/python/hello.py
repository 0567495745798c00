"""Sends a message and receives it: `python hello.py shop.kq`."""

import sys

import keepq

with keepq.open(sys.argv[1] if len(sys.argv) > 1 else "shop.kq") as kq:
    sent = kq.topic("orders").send(b'{"id": 1}', key="user-42", tag="new")
    print("on disk:", sent.durable)

    billing = kq.group("orders", "billing", lease=30, max_attempts=16)
    with billing.receive(timeout=5) as msg:  # acked when the block ends, nacked when it raises
        print("received:", msg.body.decode(), "of", msg.key)
    print("left:", billing.qsize())
