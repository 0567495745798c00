"""queue.Queue between processes that may be killed: `python jobs.py jobs.kq`.

A job that was gotten and not done is gotten again by another process when its own is gone.
"""

import multiprocessing
import sys

import keepq

Jobs = keepq.Queue[int | None]


def work(jobs: Jobs, results: keepq.Queue[list[int]]) -> None:
    while (job := jobs.get()) is not None:
        results.put([job, job * job])
        jobs.task_done()
    jobs.task_done()


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "jobs.kq"
    jobs = Jobs(path, topic="jobs", maxsize=10, codec="json")
    results = keepq.Queue[list[int]](path, topic="results", codec="json")
    workers = [multiprocessing.Process(target=work, args=(jobs, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for job in [1, 2, 3, None, None]:
        jobs.put(job)
    jobs.join()
    for worker in workers:
        worker.join()
    for job, square in sorted(results.get() for _ in range(results.qsize())):
        print(f"{job} * {job} = {square}")
        results.task_done()
