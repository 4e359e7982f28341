"""`loop.subprocess_exec` and `loop.subprocess_shell`: a child made by `subprocess.Popen`, on native pipes.

The checks of the arguments are asyncio's own. The child is watched through its pidfd, in the extension; where the
system refuses one, a thread waits. SIGCHLD is never touched and nobody else's child is ever collected.

What must stay true:
- The exit status is collected in the loop's thread, in the same step in which the transport learns of it: a signal is
  never sent to a number that somebody else may have got.
- An exit status that somebody else collected through the Popen object is not lost.
- `wait()` ends with the child, whoever still holds its pipes; `connection_lost` comes after the last pipe.
"""

import asyncio
import contextvars
import os
import signal
import subprocess
import threading
import warnings
from asyncio import base_subprocess, log
from collections.abc import Callable
from typing import Any

from . import _compat

# Names that the type stubs do not know.
_Base: Any = asyncio.BaseEventLoop
_ReadPipe: Any = base_subprocess.ReadSubprocessPipeProto
_WritePipe: Any = base_subprocess.WriteSubprocessPipeProto

_UNKNOWN_RETURNCODE = 255  # asyncio's answer where somebody else has collected the child


class SubprocessMixin:
    subprocess_exec = _Base.subprocess_exec
    subprocess_shell = _Base.subprocess_shell
    _log_subprocess = _Base._log_subprocess

    _watch_child: Callable[[int, Callable[[int | None], None]], None]

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "SubprocessTransport":
        loop: Any = self
        waiter = loop.create_future()
        options = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "bufsize": bufsize, **kwargs}
        watcher = _compat.child_watcher_of_the_program()
        if watcher is None:
            transport = SubprocessTransport(loop, protocol, args, shell, options, waiter, extra)
            transport._watch()
        else:
            with watcher as entered:
                watcher = entered if _compat.CHILD_WATCHER_IS_WHAT_IT_ENTERS else watcher
                if not watcher.is_active():
                    text = "asyncio.get_child_watcher() is not activated, subprocess support is not installed."
                    raise RuntimeError(text)
                transport = SubprocessTransport(loop, protocol, args, shell, options, waiter, extra)
                watcher.add_child_handler(transport.get_pid(), _child_ended, transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            # Being cancelled once more may not leave a child behind that nobody collects.
            await asyncio.shield(transport._wait())
            raise
        return transport


def _child_ended(pid: int, returncode: int, transport: "SubprocessTransport") -> None:
    """What a child watcher of the program's calls, in whatever thread."""
    transport._loop.call_soon_threadsafe(transport._process_exited, returncode)


class SubprocessTransport(asyncio.SubprocessTransport):
    """A child process and its pipes."""

    _extra: dict[str, Any]

    def __init__(
        self,
        loop: Any,
        protocol: Any,
        args: Any,
        shell: bool,
        options: dict[str, Any],
        waiter: Any,
        extra: dict[str, Any] | None,
    ) -> None:
        super().__init__(extra)
        self._loop = loop
        self._protocol = protocol
        self._proc: Any = None
        self._pid: Any = None
        self._returncode: int | None = None
        self._closed = False
        self._finished = False
        # What waits until the protocol was told of the connection; None from then on.
        self._pending_calls: list[tuple[Any, ...]] | None = []
        self._exit_waiters: set[Any] | None = set()
        names = ("stdin", "stdout", "stderr")
        self._pipes: dict[int, Any] = {}
        try:
            self._pipes.update((fd, None) for fd, name in enumerate(names) if options[name] == subprocess.PIPE)
            self._proc = subprocess.Popen(args, shell=shell, universal_newlines=False, **options)
        except BaseException:
            self._closed = True
            raise
        self._pid = self._proc.pid
        self._extra["subprocess"] = self._proc
        if loop.get_debug():
            program = args if isinstance(args, (bytes, str)) else args[0]
            log.logger.debug("process %r created: pid %s", program, self._pid)
        loop.create_task(self._connect_pipes(waiter))

    def __repr__(self) -> str:
        words = [type(self).__name__]
        if self._closed:
            words.append("closed")
        if self._pid is None:
            words.append("not started")
        elif self._returncode is None:
            words += [f"pid={self._pid}", "running"]
        else:
            words += [f"pid={self._pid}", f"returncode={self._returncode}"]
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            if (pipe := self._pipes.get(fd)) is not None:
                words.append(f"{name}={pipe.pipe}")
        return f"<{' '.join(words)}>"

    # What the program calls

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closed

    def get_pid(self) -> int:
        pid: int = self._pid
        return pid

    def get_returncode(self) -> int | None:
        return self._returncode

    def get_pipe_transport(self, fd: int) -> Any:
        return self._pipes[fd].pipe if fd in self._pipes else None

    def send_signal(self, signal: int) -> None:
        if self._proc is None:
            raise ProcessLookupError
        if self._returncode is not None or self._proc.returncode is not None:
            return  # collected: the number may be somebody else's
        try:
            os.kill(self._proc.pid, signal)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._loop is None or not self._loop.is_closed():  # a closed loop has closed them
            for pipe in self._pipes.values():
                if pipe is not None:
                    pipe.pipe.close()
        if self._proc is not None and self._returncode is None and not self._has_ended():
            if self._loop.get_debug():
                log.logger.warning("Close running child process: kill %r", self)
            try:
                self._proc.kill()
            except (ProcessLookupError, PermissionError):
                pass  # it ended meanwhile, or runs as somebody else

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._closed:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.close()

    def _has_ended(self) -> bool:
        """Whether the child has ended, without collecting it: its exit status is the watcher's."""
        if self._proc.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    async def _wait(self) -> int:
        """Wait until the child has ended; gives its return code. What `asyncio.subprocess.Process.wait` calls."""
        if self._returncode is not None:
            return self._returncode
        waiter = self._loop.create_future()
        waiters = self._exit_waiters
        assert waiters is not None
        waiters.add(waiter)
        try:
            returncode: int = await waiter
            return returncode
        finally:
            waiters.discard(waiter)

    # Pipes

    async def _connect_pipes(self, waiter: Any) -> None:
        loop, proc = self._loop, self._proc
        try:
            if proc.stdin is not None:
                _, self._pipes[0] = await loop.connect_write_pipe(lambda: _WritePipe(self, 0), proc.stdin)
            if proc.stdout is not None:
                _, self._pipes[1] = await loop.connect_read_pipe(lambda: _ReadPipe(self, 1), proc.stdout)
            if proc.stderr is not None:
                _, self._pipes[2] = await loop.connect_read_pipe(lambda: _ReadPipe(self, 2), proc.stderr)
            loop.call_soon(self._protocol.connection_made, self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            for pipe in self._pipes.values():
                if pipe is not None:
                    pipe.pipe.close()
            for file in (proc.stdin, proc.stdout, proc.stderr):
                if file is not None:
                    file.close()
            if not waiter.cancelled():
                waiter.set_exception(error)
            return
        calls, self._pending_calls = self._pending_calls, None
        for callback, *args in calls or ():
            loop.call_soon(callback, *args)
        if not waiter.cancelled():
            waiter.set_result(None)

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        if self._pending_calls is not None:
            self._pending_calls.append((callback, *args))
        else:
            self._loop.call_soon(callback, *args)

    def _pipe_data_received(self, fd: int, data: bytes) -> None:
        self._call(self._protocol.pipe_data_received, fd, data)

    def _pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    # The end of the child

    def _watch(self) -> None:
        """Have `_child_exited` called when the child has ended."""
        try:
            self._loop._watch_child(self._pid, self._child_exited)
        except OSError:
            # No pidfd: an old kernel, a sandbox, no descriptor left. (Or no such child any more; the thread finds out.)
            name = f"hayase-waitpid-{self._pid}"
            context = contextvars.copy_context()
            threading.Thread(target=self._wait_in_thread, args=(context,), name=name, daemon=True).start()

    def _wait_in_thread(self, context: contextvars.Context) -> None:
        """Wait without collecting: the number stays the child's until the loop's thread takes the exit status."""
        loop = self._loop
        try:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        try:
            loop.call_soon_threadsafe(self._collect, context=context)
        except RuntimeError:
            log.logger.warning("Loop %r that handles pid %r is closed", loop, self._pid)
            self._proc.poll()

    def _collect(self) -> None:
        try:
            _, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            self._child_exited(None)
        else:
            self._child_exited(os.waitstatus_to_exitcode(status))

    def _child_exited(self, returncode: int | None) -> None:
        """None: somebody else has collected the child, perhaps through the Popen object, which then knows the code."""
        if returncode is None:
            returncode = self._proc.returncode
        if returncode is None:
            returncode = _UNKNOWN_RETURNCODE
            text = "child process pid %d exit status already read:  will report returncode 255"
            log.logger.warning(text, self._pid)
        self._process_exited(returncode)

    def _process_exited(self, returncode: int) -> None:
        if self._loop.get_debug():
            log.logger.info("%r exited with return code %r", self, returncode)
        self._returncode = returncode
        if self._proc.returncode is None:
            self._proc.returncode = returncode
        try:
            self._call(self._protocol.process_exited)
        finally:
            # Whatever the protocol is: who waits for the child hears of its end.
            waiters, self._exit_waiters = self._exit_waiters, None
            for waiter in waiters or ():
                if not waiter.done():
                    waiter.set_result(returncode)
        self._try_finish()

    def _try_finish(self) -> None:
        if self._returncode is None or self._finished:
            return
        if all(pipe is not None and pipe.disconnected for pipe in self._pipes.values()):
            self._finished = True
            self._call(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._loop = None
            self._proc = None
            self._protocol = None
