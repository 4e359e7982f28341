"""Streams: `open_connection`, `start_server`, and the classes behind them. Like `asyncio.streams`, whose names are here too.

The extension has what runs per packet; asyncio's own classes, which these inherit as well, have the rest, so that
`isinstance(reader, asyncio.StreamReader)` holds and what runs rarely is the running version's.
"""

import asyncio
from asyncio import streams as _asyncio_streams
from asyncio.streams import *
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _compat, _core

_DEFAULT_LIMIT = 2**16

if not TYPE_CHECKING:  # to a type checker they are asyncio's
    for _name in ("StreamReader", "StreamReaderProtocol", "StreamWriter"):
        _compat.resemble_methods(getattr(_core, _name), getattr(_asyncio_streams, _name))

    class StreamReader(_core.StreamReader, _asyncio_streams.StreamReader):
        """What arrives on a connection: `await reader.readline()` and its sisters.

        Data that is there already is returned without a turn of the loop. `_buffer` is a copy of what waits,
        and what is done to it before the next reading or arrival counts.
        """

    class StreamReaderProtocol(_core.StreamReaderProtocol, _asyncio_streams.StreamReaderProtocol):
        """What a transport talks to on behalf of a `StreamReader`."""

        __del__ = _core.StreamReaderProtocol._forget_closed

    class StreamWriter(_core.StreamWriter, _asyncio_streams.StreamWriter):
        """The way back to the transport: `writer.write(data)`, `await writer.drain()`."""

        __del__ = _core.StreamWriter._warn_unclosed

    _core.register_stream_classes(StreamReader, StreamReaderProtocol, StreamWriter, _asyncio_streams.StreamWriter)

    def _factory(limit: int, loop: Any, callback: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: StreamReaderProtocol(StreamReader(limit, loop), callback, loop)

    async def open_connection(host=None, port=None, *, limit=_DEFAULT_LIMIT, **kwds):
        """Connect to a host and port; return a reader and a writer.

        `limit`, in bytes, is the longest line that the reader accepts and half of what it buffers before the connection is
        paused. The other keywords are those of `loop.create_connection()`, and so are the errors.
        """
        loop = asyncio.get_running_loop()
        reader = StreamReader(limit, loop)
        protocol = StreamReaderProtocol(reader, None, loop)
        transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)
        return reader, StreamWriter(transport, protocol, reader, loop)

    async def start_server(client_connected_cb, host=None, port=None, *, limit=_DEFAULT_LIMIT, **kwds):
        """Serve on a host and port: `client_connected_cb(reader, writer)` is called for each connection.

        If it is a coroutine function, its coroutine becomes a task. The other keywords, the result and the errors are those
        of `loop.create_server()`.
        """
        loop = asyncio.get_running_loop()
        return await loop.create_server(_factory(limit, loop, client_connected_cb), host, port, **kwds)

    async def open_unix_connection(path=None, *, limit=_DEFAULT_LIMIT, **kwds):
        """As `open_connection`, to the socket at a path; the keywords are those of `loop.create_unix_connection()`."""
        loop = asyncio.get_running_loop()
        reader = StreamReader(limit, loop)
        protocol = StreamReaderProtocol(reader, None, loop)
        transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)
        return reader, StreamWriter(transport, protocol, reader, loop)

    async def start_unix_server(client_connected_cb, path=None, *, limit=_DEFAULT_LIMIT, **kwds):
        """As `start_server`, on the socket at a path; the keywords are those of `loop.create_unix_server()`."""
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(_factory(limit, loop, client_connected_cb), path, **kwds)
