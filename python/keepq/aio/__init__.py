"""keepq for asyncio: the same names, to be awaited.

    from keepq import aio

    async with aio.open("shop.kq") as kq:
        await kq.topic("orders").send(b"hello")
        async for msg in kq.group("orders", "mail"):
            async with msg:
                await work(msg.body)

Works under every event loop that has add_reader, asyncio's and uvloop's. A store belongs to the
loop it was opened on, and its objects are not for other threads.

The loop never waits for the disk or for other processes: sends and settlements are made by a thread
of the store, whatever may take longer by a few more. A receive waits by a descriptor and claims on
the loop's thread, in the step that returns the message. So cancelling an await never loses a
message: one that was not returned was not claimed, and others get it at once. A send that is
cancelled was sent or not; a settlement that is cancelled is made all the same.

Topics, groups and producers are opened by their first use, which raises what opening them raises;
`await kq.topic("orders")` opens it and gives it back. Exceptions and plain data are those of keepq.
"""

from __future__ import annotations

from ._browse import Browse, DeadLetters
from ._group import Group, Message
from ._store import Opening, Store, open
from ._topic import Producer, Topic

__all__ = [
    "Browse",
    "DeadLetters",
    "Group",
    "Message",
    "Opening",
    "Producer",
    "Store",
    "Topic",
    "open",
]
