"""The event loop of a worker's `async def` handlers. Loaded only when there are any."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ._errors import Retry

if TYPE_CHECKING:
    from ._runner import Job, Runner

log = logging.getLogger("keepq.worker")

# How long a close waits for tasks that were cancelled, in seconds.
_GRACE = 1.0


class Loop:
    """An event loop on a thread of its own, and threads that settle what its tasks worked on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Exception | None]] = set()
        # Settling may wait for the disk.
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="keepq-settle")
        self._thread = threading.Thread(target=self._run, name="keepq-loop", daemon=True)
        self._thread.start()

    def start(self, job: Job, runner: Runner) -> None:
        """Has a message worked on by a task. From any thread."""
        self._loop.call_soon_threadsafe(self._spawn, job, runner)

    def close(self) -> None:
        """Cancels what runs and ends the thread, unless a task holds it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2 * _GRACE)
        if self._thread.is_alive():
            log.error("the event loop does not end: a handler blocks it")
        self._pool.shutdown(wait=False)

    def _spawn(self, job: Job, runner: Runner) -> None:
        task = self._loop.create_task(self._work(job, runner))
        self._tasks.add(task)
        job.cancel = lambda: self._loop.call_soon_threadsafe(task.cancel)
        if job.given_back:
            task.cancel()
        task.add_done_callback(lambda task: self._ended(task, job, runner))

    async def _work(self, job: Job, runner: Runner) -> Exception | None:
        try:
            runner.decode(job)
            function: Any = runner.handler.function
            return runner.of_result(await function(job.message))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return runner.of_error(job, error)

    def _ended(self, task: asyncio.Task[Exception | None], job: Job, runner: Runner) -> None:
        self._tasks.discard(task)
        # A task that was cancelled has done nothing wrong: its message comes again at once.
        ending = Retry(0) if task.cancelled() else task.result()
        self._pool.submit(runner.finish, job, ending)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                self._loop.run_until_complete(asyncio.wait(self._tasks, timeout=_GRACE))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
