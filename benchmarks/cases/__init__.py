"""Every case, in the order of the report. A file holds one subject."""

from __future__ import annotations

from benchmarks.case import Case
from benchmarks.cases import (
    call_soon,
    client,
    connections,
    datagrams,
    futures,
    memory,
    names,
    pipes,
    processes,
    sendfile,
    sockets,
    streams,
    sync,
    tasks,
    tcp,
    threads,
    timers,
    tls,
    unix,
    waiting,
    web,
)

CASES: tuple[Case, ...] = (
    *call_soon.CASES,
    *timers.CASES,
    *tasks.CASES,
    *futures.CASES,
    *sync.CASES,
    *waiting.CASES,
    *threads.CASES,
    *tcp.CASES,
    *streams.CASES,
    *connections.CASES,
    *sockets.CASES,
    *unix.CASES,
    *datagrams.CASES,
    *tls.CASES,
    *sendfile.CASES,
    *client.CASES,
    *names.CASES,
    *pipes.CASES,
    *processes.CASES,
    *web.CASES,
    *memory.CASES,
)
