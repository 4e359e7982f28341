"""`create_subprocess_exec` and `create_subprocess_shell`, whose pipes are hayase's streams. Like `asyncio.subprocess`, whose
names are here too.
"""

import asyncio
from asyncio import subprocess as _asyncio_subprocess
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from typing import TYPE_CHECKING, Any

from .streams import StreamReader, StreamWriter

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Process",
    "SubprocessStreamProtocol",
    "create_subprocess_exec",
    "create_subprocess_shell",
]

if TYPE_CHECKING:  # to a type checker they are asyncio's
    from asyncio.subprocess import SubprocessStreamProtocol, create_subprocess_exec, create_subprocess_shell
else:
    _DEFAULT_LIMIT = 2**16

    class SubprocessStreamProtocol(_asyncio_subprocess.SubprocessStreamProtocol):
        """What a child's transport talks to on behalf of `stdin`, `stdout` and `stderr` of a `Process`."""

        def connection_made(self, transport):
            self._transport = transport
            self.stdout = self._reader_of(1)
            self.stderr = self._reader_of(2)
            if (pipe := transport.get_pipe_transport(0)) is not None:
                self.stdin = StreamWriter(pipe, self, None, self._loop)

        def _reader_of(self, fd):
            pipe = self._transport.get_pipe_transport(fd)
            if pipe is None:
                return None
            reader = StreamReader(self._limit, self._loop)
            reader.set_transport(pipe)
            self._pipe_fds.append(fd)
            return reader

    async def create_subprocess_exec(
        program, *args, stdin=None, stdout=None, stderr=None, limit=_DEFAULT_LIMIT, **kwds
    ):
        """Run a program; give its `Process`.

        `limit`, in bytes, is the longest line that its readers accept. The other keywords are those of `subprocess.Popen`.
        """
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: SubprocessStreamProtocol(limit, loop),
            program,
            *args,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            **kwds,
        )
        return Process(transport, protocol, loop)

    async def create_subprocess_shell(cmd, stdin=None, stdout=None, stderr=None, limit=_DEFAULT_LIMIT, **kwds):
        """As `create_subprocess_exec`, for a command line of the shell."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_shell(
            lambda: SubprocessStreamProtocol(limit, loop), cmd, stdin=stdin, stdout=stdout, stderr=stderr, **kwds
        )
        return Process(transport, protocol, loop)


def __getattr__(name: str) -> Any:
    try:
        return getattr(_asyncio_subprocess, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
