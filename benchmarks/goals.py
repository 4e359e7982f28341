"""What hayase set itself, on CPython 3.13; the report says whether it is reached."""

from __future__ import annotations

RATIO_GOALS = {
    "call_soon_chain": 0.25,
    "call_soon_fanout": 0.55,
    "timers_fire_100k": 0.33,
    "timers_cancel_100k": 0.32,
    "task_await": 0.20,
    "task_spawn_100k": 0.32,
    "sleep0_2_tasks": 0.22,
    "sleep_timer": 0.35,
    "gather_10k": 0.24,
    "lock_free": 0.30,
    "lock_fought": 0.22,
    "event_pingpong": 0.20,
    "semaphore_fought": 0.22,
    "queue_1": 0.12,
    "queue_nowait": 0.30,
    "timeout": 0.20,
    "wait_for": 0.22,
    "shield": 0.30,
    "task_group": 0.40,
    "cancel": 0.30,
    "contexts": 0.35,
    "future_roundtrip": 0.24,
    "future_pingpong": 0.26,
    "tcp_protocol/conns=100/size=1KiB": 0.88,
    "tcp_protocol/conns=100/size=100KiB": 0.87,
    "connect": 1.00,
    "http_uvicorn": 0.88,
    "http_aiohttp": 0.93,
    "tls_protocol/conns=50/size=1KiB": 0.60,
    "tls_protocol/conns=50/size=64KiB": 0.80,
    "tls_streams/conns=50/size=1KiB": 0.60,
    "tls_handshake": 0.60,
    "udp/peers=100/size=64B": 0.65,
    "unix/conns=100/size=1KiB": 0.88,
    "sockets/conns=100/size=1KiB": 0.30,
    "pipe_pingpong": 0.90,
    "subprocess_wait": 0.42,
    "getaddrinfo_localhost": 0.90,
    "client_connect": 0.80,
}
"""At most this share of uvloop's figure in the same run."""

ABSOLUTE_GOALS = {"mem_connection_protocol": 900.0}
"""At most so much, in the unit of the case."""
