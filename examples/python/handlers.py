"""Handlers for messages: `keepq worker handlers` here, or `python handlers.py shop.kq` for a try.

Start as many as you like. SIGTERM and Ctrl-C let what runs finish.
"""

import sys
import threading
import time
from typing import Any

import keepq

path = sys.argv[1] if len(sys.argv) > 1 else "shop.kq"
app = keepq.Worker(path, codec="json")


def say(line: str) -> None:
    # In one piece: handlers run at the same time.
    sys.stdout.write(line + "\n")


@app.handler("orders", group="billing", concurrency=4)
def bill(msg: keepq.Message) -> None:
    order: Any = msg.value
    if order["amount"] <= 0:
        raise keepq.Reject(f"nothing to bill in order {order['id']}")
    say(f"billed order {order['id']}")


@app.handler("orders", group="mail", concurrency=100)
async def confirm(msg: keepq.Message) -> None:
    order: Any = msg.value
    say(f"confirmed order {order['id']}")


if __name__ == "__main__":
    # For a try: some orders, and a stop when nothing is left of them.
    with keepq.open(path, codec="json") as kq:
        for name in ("billing", "mail"):
            kq.group("orders", name)
        kq.topic("orders").send_many([{"id": n, "amount": n % 2} for n in (1, 2, 3)])
        running = threading.Thread(target=app.run)
        running.start()
        while any(group.ready + group.in_flight for group in kq.stats().groups):
            time.sleep(0.01)
        app.stop()
        running.join()
