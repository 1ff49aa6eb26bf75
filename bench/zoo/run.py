"""Run the checks of many models, each in a process of its own: a crash or a timeout never ends the sweep."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.zoo.names import family
from bench.zoo.record import Record, read_records

_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass
class _Job:
    name: str
    process: Any
    connection: Connection
    deadline: float
    began: float


def sweep(
    names: Sequence[str],
    out: Path,
    *,
    jobs: int = 2,
    timeout: float = 300.0,
    resume: bool = False,
    graphs: Sequence[str] = ("fx",),
    on_record: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Check every model of ``names``; write each record to the JSONL file ``out`` at once.

    ``timeout``: seconds for one model. ``resume``: keep the records in ``out``, and check only the other models.
    ``graphs``: front ends whose graphs are proven and compared with low steps of the model itself.

    Raises ``ValueError`` if ``out`` exists and ``resume`` is false, or ``out`` is not a sweep's file.
    """
    if out.exists() and not resume:
        raise ValueError(f"{out} exists; give --resume to continue, or another --out")
    records = read_records(out) if out.exists() else []
    done = {record.name for record in records}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(record.to_line() + "\n" for record in records))
    _CONTEXT.set_forkserver_preload(["bench.zoo.check"])
    with out.open("a") as stream:
        for record in _run_all([name for name in names if name not in done], jobs, timeout, graphs):
            stream.write(record.to_line() + "\n")
            stream.flush()
            records.append(record)
            on_record(record)
    return records


def _run_all(names: Sequence[str], jobs: int, timeout: float, graphs: Sequence[str]) -> Iterable[Record]:
    waiting, running = list(reversed(names)), list[_Job]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(), timeout, graphs))
            nearest = max(0.0, min(job.deadline for job in running) - time.monotonic())
            wait([job.connection for job in running], timeout=nearest)
            for job in list(running):
                record = _finished(job)
                if record is not None:
                    running.remove(job)
                    yield record
    finally:
        for job in running:
            job.process.kill()


def _start(name: str, timeout: float, graphs: Sequence[str]) -> _Job:
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(name, graphs, theirs), daemon=True)
    process.start()
    theirs.close()
    now = time.monotonic()
    return _Job(name, process, ours, now + timeout, now)


def _work(name: str, graphs: Any, connection: Connection) -> None:
    import torch

    from bench.zoo.check import check_model, warm_up

    torch.set_num_threads(1)
    warm_up()
    connection.send(check_model(name, graphs))


def _finished(job: _Job) -> Record | None:
    """The job's record if it has ended, died or run out of time; ``None`` while it runs."""
    seconds = time.monotonic() - job.began
    record: Record | None = None
    if job.connection.poll():
        try:
            record = job.connection.recv()
        except EOFError:
            job.process.join()
            reason = f"its process ended with exit status {job.process.exitcode}"
            record = Record(job.name, family(job.name), "error", reason, seconds=round(seconds, 2))
    elif time.monotonic() >= job.deadline:
        job.process.kill()
        reason = f"no answer in {seconds:.0f} s"
        record = Record(job.name, family(job.name), "timeout", reason, seconds=round(seconds, 2))
    if record is not None:
        job.process.join()
        job.connection.close()
    return record
