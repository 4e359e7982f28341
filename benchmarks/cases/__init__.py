"""Every case, in the order of the report. A file holds one subject."""

from __future__ import annotations

from benchmarks.case import Case
from benchmarks.cases import call_soon, connections, futures, memory, tasks, tcp, threads, timers, web

CASES: tuple[Case, ...] = (
    *call_soon.CASES,
    *timers.CASES,
    *tasks.CASES,
    *futures.CASES,
    *threads.CASES,
    *tcp.CASES,
    *connections.CASES,
    *web.CASES,
    *memory.CASES,
)
