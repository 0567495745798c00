"""Waits for messages of two groups in one loop: `python loop.py shop.kq`.

A group has a descriptor, like a socket: an event loop waits for it beside anything else. There is
no moment in which a message is taken and not yet returned.
"""

import selectors
import sys

import keepq

path = sys.argv[1] if len(sys.argv) > 1 else "shop.kq"

with keepq.open(path) as kq, selectors.DefaultSelector() as selector:
    for topic in ("orders", "returns"):
        selector.register(kq.group(topic, "billing"), selectors.EVENT_READ)
        kq.topic(topic).send(b"something about " + topic.encode())
    seen = 0
    while seen < 2:
        for key, _ in selector.select(timeout=10):
            group = key.fileobj
            assert isinstance(group, keepq.Group)
            while (msg := group.poll()) is not None:
                with msg:
                    print(group.topic, "->", msg.body.decode())
                    seen += 1
