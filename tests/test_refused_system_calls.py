"""What a loop does when the system refuses: no descriptors, a sandbox, a descriptor that became something else.

The sandbox is a real one, a seccomp filter in a program of its own: the kernel answers one system call with an error, always.
"""

from __future__ import annotations

import errno
import os
import platform
import socket

import pytest
from recording import Recording

SANDBOX = """
import ctypes, errno, struct

NUMBERS = {"accept4": {"x86_64": 288, "aarch64": 242}, "waitid": {"x86_64": 247, "aarch64": 95}}
NUMBERS |= {"pidfd_open": dict.fromkeys(["x86_64", "aarch64"], 434), "epoll_pwait2": dict.fromkeys(["x86_64", "aarch64"], 441)}

def refuse(call, error):
    "From now on the kernel answers `call` with `error`, and has no other effect."
    number = NUMBERS[call][os.uname().machine]
    rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    holder = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, holder, 0, 0) == 0, ctypes.get_errno()
"""

in_a_sandbox = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the numbers of system calls are known for these alone"
)


# Sandboxes -----------------------------------------------------------------------------------------------------------


@in_a_sandbox
@pytest.mark.parametrize("call", ["pidfd_open", "waitid"])
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "EINVAL"])
def test_a_sandbox_that_refuses_how_children_are_watched_changes_nothing(program, call, error):
    result = program(
        SANDBOX
        + f"""
refuse({call!r}, errno.{error})
try:
    os.pidfd_open(os.getpid()) if {call!r} == "pidfd_open" else os.waitid(os.P_ALL, 0, os.WEXITED)
except OSError as refusal:
    print(refusal.errno == errno.{error})

async def main():
    process = await asyncio.create_subprocess_exec("sh", "-c", "cat; exit 4", stdin=-1, stdout=-1)
    print(await process.communicate(b"data"), process.returncode)
    process = await asyncio.create_subprocess_exec("sleep", "100")
    process.kill()
    print(await process.wait())

loop = new_event_loop()
if SIDE == "asyncio" and sys.version_info < (3, 14):
    asyncio.get_event_loop_policy().set_event_loop(loop)
loop.run_until_complete(main())
loop.close()
"""
    )
    assert (result.returncode, result.stdout) == (0, "True\n(b'data', None) 4\n-9\n"), result.stderr


@in_a_sandbox
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_sandbox_that_refuses_to_wait_in_nanoseconds_changes_nothing(program, error):
    result = program(
        SANDBOX
        + f"""
refuse("epoll_pwait2", errno.{error})

import time

async def main():
    for delay in (0.0001, 0.0023, 0.01):
        began = time.monotonic()
        await asyncio.sleep(delay)
        assert time.monotonic() - began >= delay

loop = new_event_loop()
loop.run_until_complete(main())
loop.close()
print("fine")
"""
    )
    assert (result.returncode, result.stdout) == (0, "fine\n"), result.stderr


@in_a_sandbox
@pytest.mark.parametrize("error", ["EPERM", "EIO", "ECONNABORTED"])
@pytest.mark.hayase_only("asyncio tries without end, and reports each time or never")
def test_a_sandbox_that_refuses_to_accept_is_reported_and_not_asked_without_end(program, error):
    result = program(
        SANDBOX
        + f"""
refuse("accept4", errno.{error})
reports = []

async def main():
    loop = asyncio.get_running_loop()
    reported = loop.create_future()

    def report(loop, context):
        reports.append((context["message"], type(context["exception"]).__name__, context["exception"].errno))
        if not reported.done():
            reported.set_result(None)

    loop.set_exception_handler(report)
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await reported
        for _ in range(100):
            await asyncio.sleep(0)
    server.close()

loop = new_event_loop()
loop.run_until_complete(main())
loop.close()
[(message, kind, number)] = reports
assert number == errno.{error}, reports
print(message)
"""
    )
    expected = "socket.accept() failed; connections are accepted again in a second\n"
    assert (result.returncode, result.stdout) == (0, expected), result.stderr


def test_after_an_error_that_nobody_expects_connections_are_accepted_again(loop, run):
    reports = []

    async def main():
        accepted = loop.create_future()

        class Noting(Recording):
            def connection_made(self, transport):
                super().connection_made(transport)
                accepted.set_result(self)

        server = await loop.create_server(Noting, "127.0.0.1", 0)
        number, address = server.sockets[0].fileno(), server.sockets[0].getsockname()
        # The number becomes a socket that does not listen; the one that does is still watched, and reports the connection.
        listening = os.dup(number)
        one, other = socket.socketpair()

        def report(loop, context):
            reports.append(context["exception"].errno)
            os.dup2(listening, number, inheritable=False)

        loop.set_exception_handler(report)
        os.dup2(one.fileno(), number, inheritable=False)
        with one, other, socket.create_connection(address):
            protocol = await accepted
            protocol.transport.abort()
            await protocol.closed
        server.close()
        await server.wait_closed()
        os.close(listening)

    run(main())
    assert reports == [errno.EINVAL]


# Numbers of errors ---------------------------------------------------------------------------------------------------


def test_a_loop_that_cannot_be_made_or_run_for_want_of_descriptors_tells_the_number_of_the_error(program):
    result = program(
        """
        import errno, resource

        def told(attempt):
            try:
                attempt()
            except OSError as error:
                return errno.errorcode[error.errno]

        loop = new_event_loop()
        free = os.dup(0)
        os.close(free)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        # asyncio's loop needs descriptors when it is made, hayase's some when it runs first.
        print(told(new_event_loop), told(lambda: loop.run_until_complete(asyncio.sleep(0))) in ("EMFILE", None))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """,
        "-W",
        "ignore",
    )
    assert (result.returncode, result.stdout) == (0, "EMFILE True\n"), result.stderr


def test_a_loop_whose_selector_was_closed_under_it_tells_the_number_of_the_error(program):
    result = program(
        """
        def epoll_sets():
            numbers = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                        numbers.append(int(name))
                except FileNotFoundError:
                    pass
            return numbers

        loop = new_event_loop()
        [number] = epoll_sets()
        loop.run_until_complete(asyncio.sleep(0))
        os.close(number)
        try:
            loop.run_until_complete(asyncio.sleep(0.001))
        except OSError as error:
            print(type(error).__name__, error.errno, error.strerror)
        sys.stdout.flush()
        os._exit(0)
        """,
        "-W",
        "ignore",
    )
    assert (result.returncode, result.stdout) == (0, f"OSError {errno.EBADF} {os.strerror(errno.EBADF)}\n"), (
        result.stderr
    )
