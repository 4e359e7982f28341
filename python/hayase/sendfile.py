"""`loop.sendfile` and `loop.sock_sendfile`: asyncio's own, on hayase's transports and sockets.

The kernel does the work (`_sock_sendfile_native`, in Rust); what remains is the choice between it and reading the file
in blocks, once per call, which asyncio has written down already.
"""

import asyncio
from typing import IO, Any

# The type stubs do not know all of its names.
_Base: Any = asyncio.BaseEventLoop


class SendfileMixin:
    sendfile = _Base.sendfile
    sock_sendfile = _Base.sock_sendfile
    _check_sendfile_params = _Base._check_sendfile_params
    _sendfile_fallback = _Base._sendfile_fallback
    _sock_sendfile_fallback = _Base._sock_sendfile_fallback

    async def _sendfile_native(self, transp: Any, file: IO[bytes], offset: int, count: int | None) -> int:
        resume_reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        try:
            # Nothing is read or written now, so the transport does not watch the descriptor: sock_sendfile may.
            sent: int = await self.sock_sendfile(transp._sock, file, offset, count, fallback=False)
            return sent
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()
