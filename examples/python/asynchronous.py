"""Sends and receives in an event loop: `python asynchronous.py shop.kq`."""

import asyncio
import sys

from keepq import aio


async def mail(group: aio.Group) -> None:
    async for msg in group:
        async with msg:
            print("mail about", msg.body.decode())
            if msg.body == b"order 3":
                await group.close()


async def main(path: str) -> None:
    async with aio.open(path) as kq:
        orders = kq.topic("orders")
        mailing = asyncio.create_task(mail(kq.group("orders", "mail")))
        # All three share one flush of the disk.
        await asyncio.gather(*(orders.send(b"order %d" % n) for n in (1, 2, 3)))
        await mailing


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "shop.kq"))
