"""Transports that a program forgets: the collector ends them, with a warning and with nothing else.

A transport, its protocol and its socket or file are garbage together, and the collector takes garbage apart in any order.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import warnings
import weakref

import pytest


class Holding(asyncio.Protocol):
    """In a cycle with its transport."""

    def connection_made(self, transport):
        self.transport = transport


async def over_a_socket_of_the_program(loop):
    far, near = socket.socketpair()
    # Older than the transport, for the collector too.
    gc.collect()
    transport, protocol = await loop.create_connection(Holding, sock=near)
    return transport, protocol, near.fileno(), far


async def over_a_socket_that_the_protocol_has(loop):
    transport, protocol, descriptor, far = await over_a_socket_of_the_program(loop)
    protocol.socket = transport.get_extra_info("socket")
    return transport, protocol, descriptor, far


async def over_a_socket_of_the_loop(loop):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport, protocol = await loop.create_connection(Holding, *listening.getsockname())
        far, _ = listening.accept()
    return transport, protocol, transport.get_extra_info("socket").fileno(), far


async def over_a_pipe(loop, buffering=0):
    near, far = os.pipe()
    file = os.fdopen(near, "rb", buffering)
    gc.collect()
    transport, protocol = await loop.connect_read_pipe(Holding, file)
    return transport, protocol, near, os.fdopen(far, "wb")


async def over_a_buffered_pipe(loop):
    return await over_a_pipe(loop, buffering=-1)


async def over_a_pipe_that_is_a_socket(loop):
    far, near = socket.socketpair()
    gc.collect()
    transport, protocol = await loop.connect_read_pipe(Holding, near)
    return transport, protocol, near.fileno(), far


@pytest.mark.parametrize(
    "connect",
    [
        over_a_socket_of_the_program,
        over_a_socket_that_the_protocol_has,
        over_a_socket_of_the_loop,
        over_a_pipe,
        over_a_buffered_pipe,
        over_a_pipe_that_is_a_socket,
    ],
    ids=lambda connect: connect.__name__,
)
def test_a_forgotten_transport_ends_with_a_warning_and_without_an_error(loop, run, monkeypatch, connect):
    errors = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: errors.append(unraisable.exc_value))

    async def main():
        transport, protocol, descriptor, far = await connect(loop)
        transport.pause_reading()
        await asyncio.sleep(0)
        return weakref.ref(transport), weakref.ref(protocol), descriptor, far

    # Only the texts: what records the warnings keeps the transports that they are about.
    texts = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_: texts.append(str(message)))
        transport, protocol, descriptor, far = run(main())
        gc.collect()
    assert errors == []
    assert transport() is None and protocol() is None
    assert [text.startswith("unclosed transport <") for text in texts].count(True) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    far.close()
