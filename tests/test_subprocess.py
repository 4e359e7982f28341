"""Children: `subprocess_exec`, `subprocess_shell`, `asyncio.create_subprocess_*`, and how their ends are told."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from asyncio.subprocess import DEVNULL, PIPE, STDOUT

import pytest
from recording import payload

before_3_14 = pytest.mark.skipif(sys.version_info >= (3, 14), reason="3.14 has no child watchers")

BLOCKED = ("sleep", "1000")

variable = contextvars.ContextVar("variable", default="nobody's")


def asyncio_fails_before(*version, because):
    """On older versions only hayase is asked, for the reason given."""
    if sys.version_info < version:
        return pytest.mark.hayase_only(because)
    return lambda test: test


a_thread_of_asyncio_races_before_3_12 = asyncio_fails_before(
    3, 12, because="a thread of asyncio's collects the child before the program can"
)

send_signal_collects_before_3_13 = asyncio_fails_before(
    3, 13, because="asyncio's send_signal collects a child that has ended, and its watcher then reports 255"
)


def python(code):
    return (sys.executable, "-S", "-E", "-c", code)


def children():
    """Living or not collected yet."""
    return {pid for task in os.listdir("/proc/self/task") for pid in children_of(task)}


def children_of(task):
    try:
        with open(f"/proc/self/task/{task}/children") as file:
            return map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        # A thread that was joined goes a moment later, and what it started belongs to another one then.
        return ()


@pytest.fixture(autouse=True)
def _no_child_is_left_behind():
    before = children()
    yield
    gc.collect()
    assert children() <= before


class Events(asyncio.SubprocessProtocol):
    """Writes down what it is told, in order."""

    def __init__(self):
        self.events = []
        self.data = {1: b"", 2: b""}
        loop = asyncio.get_running_loop()
        self.exited, self.closed = loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("connection_made")

    def pipe_data_received(self, fd, data):
        assert data and type(data) is bytes
        self.data[fd] += data
        if self.events[-1] != ("data", fd):
            self.events.append(("data", fd))

    def pipe_connection_lost(self, fd, exc):
        self.events.append(("lost", fd, type(exc)))

    def process_exited(self):
        self.events.append("process_exited")
        self.exited.set_result(self.transport.get_returncode())

    def connection_lost(self, exc):
        self.events.append(("connection_lost", exc))
        self.closed.set_result(None)


async def execute(*args, **kwargs):
    return await asyncio.get_running_loop().subprocess_exec(Events, *args, **kwargs)


# Input, output, return codes ---------------------------------------------------------------------------------------------


def test_what_a_child_reads_and_writes_travels_through_its_pipes(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "cat; echo oops >&2; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert await process.communicate(b"some data") == (b"some data", b"oops\n")
        assert process.returncode == 3
        assert await process.wait() == 3

    run(main())


def test_a_shell_runs_a_command_line(run):
    async def main():
        process = await asyncio.create_subprocess_shell('echo "$HOME $((6*7))"', stdout=PIPE, env={"HOME": "here"})
        assert await process.communicate() == (b"here 42\n", None)
        assert process.returncode == 0

    run(main())


@pytest.mark.parametrize("code", [0, 1, 2, 127, 128, 137, 255])
def test_the_exit_status_is_told_as_it_is(run, code):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
        assert await process.wait() == code
        assert process.returncode == code

    run(main())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGRTMIN])
def test_a_signal_that_ends_a_child_is_its_negative_return_code(run, number):
    async def main():
        process = await asyncio.create_subprocess_exec(*BLOCKED)
        process.send_signal(number)
        assert await process.wait() == -number

    run(main())


@pytest.mark.parametrize("size", [65536, 65537, 5_000_000])
def test_output_of_any_size_flows_both_ways(run, size):
    data = payload(size)

    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        out, err = await process.communicate(data)
        assert out == data
        assert err is None
        assert process.returncode == 0

    run(main())


def test_output_on_both_pipes_larger_than_they_hold_is_not_a_deadlock(run):
    code = "import os, sys\nfor _ in range(40):\n for fd in 1, 2: os.write(fd, b'%d' % fd * 50000)"

    async def main():
        process = await asyncio.create_subprocess_exec(*python(code), stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"1" * 2_000_000, b"2" * 2_000_000)

    run(main())


def test_lines_come_as_they_are_written(run):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        for number in range(200):
            process.stdin.write(b"line %d\n" % number)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"line %d\n" % number
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0

    run(main())


def test_a_child_that_reads_nothing_pauses_its_writer_until_it_does(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "read go; cat >/dev/null", stdin=PIPE)
        data = payload(400_000)
        process.stdin.write(data)
        assert process.stdin.transport.get_write_buffer_size() > 0
        drained = asyncio.ensure_future(process.stdin.drain())
        await asyncio.sleep(0)
        assert not drained.done()
        process.stdin.write(b"\n")
        await drained
        process.stdin.close()
        assert await process.wait() == 0

    run(main())


def test_reading_the_output_can_be_paused(run):
    async def main():
        transport, protocol = await execute("sh", "-c", "echo data; exec sleep 1000", stderr=None)
        pipe = transport.get_pipe_transport(1)
        pipe.pause_reading()
        os.kill(transport.get_pid(), 0)
        for _ in range(10):
            await asyncio.sleep(0)
        before = protocol.data[1]
        pipe.resume_reading()
        transport.kill()
        await protocol.exited
        assert before in (b"", b"data\n")
        transport.close()
        await protocol.closed

    run(main())


def test_a_child_that_does_not_read_its_input_is_no_error_for_communicate(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "exec <&-; echo done", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(payload(3_000_000)) == (b"done\n", None)
        assert process.returncode == 0

    run(main())


def test_writing_to_a_dead_child_breaks_the_pipe(run):
    async def main():
        process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
        assert await process.wait() == 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100):
                process.stdin.write(b"x" * 70_000)
                await process.stdin.drain()

    run(main())


def test_where_the_output_goes_can_be_chosen(run, tmp_path):
    async def main():
        command = ("sh", "-c", "echo out; echo err >&2")
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
        assert await process.communicate() == (b"out\nerr\n", None)
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL)
        assert await process.communicate() == (b"out\n", None)
        with open(tmp_path / "out", "wb") as file:
            process = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file)
            assert await process.wait() == 0
        assert (tmp_path / "out").read_bytes() == b"out\nerr\n"
        with open(tmp_path / "out", "rb") as file:
            process = await asyncio.create_subprocess_exec("cat", stdin=file, stdout=PIPE)
            assert await process.communicate() == (b"out\nerr\n", None)

    run(main())


def test_a_child_that_closes_its_output_runs_on(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "echo x; exec >&-; read go; exit 4", stdin=PIPE, stdout=PIPE
        )
        assert await process.stdout.read() == b"x\n"
        assert process.returncode is None
        process.stdin.write(b"go\n")
        assert await process.wait() == 4

    run(main())


# Arguments -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keywords",
    [
        {"universal_newlines": True},
        {"bufsize": 1},
        {"text": True},
        {"encoding": "utf-8"},
        {"errors": "strict"},
        {"shell": "wrong"},
        {"no_such_keyword": 1},
        {"cwd": "/no/such/folder"},
        {"pass_fds": ["x"]},
    ],
    ids=lambda keywords: next(iter(keywords)),
)
@pytest.mark.parametrize("how", ["exec", "shell"])
def test_wrong_keywords_are_refused_as_asyncio_refuses_them(same_as_asyncio, how, keywords):
    def story(loop):
        options = dict(keywords)
        if options.get("shell") == "wrong":
            options["shell"] = how == "exec"
        method = getattr(loop, f"subprocess_{how}")
        loop.run_until_complete(method(asyncio.SubprocessProtocol, "true", **options))

    assert same_as_asyncio(story).error is not None


@pytest.mark.parametrize("command", [("true",), None, 3], ids=repr)
def test_a_command_line_is_text(same_as_asyncio, command):
    def story(loop):
        loop.run_until_complete(loop.subprocess_shell(asyncio.SubprocessProtocol, command))

    assert same_as_asyncio(story).error == (ValueError, "cmd must be a string")


@pytest.mark.parametrize("program", ["/no/such/program", "/", "nul\0", 3, ""], ids=repr)
def test_a_program_that_cannot_be_run_is_an_error_at_once(same_as_asyncio, program):
    def story(loop):
        loop.run_until_complete(loop.subprocess_exec(asyncio.SubprocessProtocol, program))

    assert same_as_asyncio(story).error is not None


def test_a_file_that_may_not_be_run_is_refused(same_as_asyncio, tmp_path):
    (tmp_path / "program").write_text("#!/bin/sh\n")

    def story(loop):
        loop.run_until_complete(loop.subprocess_exec(asyncio.SubprocessProtocol, str(tmp_path / "program")))

    assert same_as_asyncio(story).error[0] is PermissionError


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_fails_between_fork_and_exec_is_told(same_as_asyncio):
    def story(loop):
        loop.run_until_complete(loop.subprocess_exec(asyncio.SubprocessProtocol, "true", preexec_fn=lambda: 1 / 0))

    error = same_as_asyncio(story).error
    assert error == (subprocess.SubprocessError, "Exception occurred in preexec_fn.")


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_every_keyword_of_popen_reaches_it(run, tmp_path):
    async def output(code, **keywords):
        process = await asyncio.create_subprocess_exec(*python("import os\n" + code), stdout=PIPE, **keywords)
        return (await process.communicate())[0].decode().strip()

    async def main():
        folder = os.path.realpath(tmp_path)
        assert await output("print(os.getcwd())", cwd=tmp_path) == folder
        assert await output("print(os.environ['A'])", env={**os.environ, "A": "b"}) == "b"
        assert await output("print(os.getsid(0) == os.getpid())", start_new_session=True) == "True"
        assert await output("print(os.getpgid(0) == os.getpid())", process_group=0) == "True"
        assert await output("print(os.umask(0))", umask=0o27) == str(0o27)
        assert await output("print(os.getcwd())", preexec_fn=lambda: os.chdir(tmp_path)) == folder
        assert await output("print(os.getuid())", user=os.getuid()) == str(os.getuid())
        assert await output("print(os.getgid())", group=os.getgid()) == str(os.getgid())
        reader, writer = os.pipe()
        with open(reader, "rb") as reading:
            try:
                assert await output(f"os.write({writer}, b'passed')", pass_fds=[writer]) == ""
                os.set_inheritable(writer, True)
                assert await output(f"os.write({writer}, b' kept')", close_fds=False) == ""
            finally:
                os.close(writer)
            assert reading.read() == b"passed kept"
        restored = "import signal; print(signal.getsignal(signal.SIGPIPE) is not None)"
        assert await output(restored, restore_signals=False) == "True"
        process = await asyncio.create_subprocess_exec("not sh", "-c", "echo $0", executable="/bin/sh", stdout=PIPE)
        assert (await process.communicate())[0] == b"not sh\n"
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, pipesize=8192)
        assert (await process.communicate(b"x" * 100_000))[0] == b"x" * 100_000

    run(main())


# The transport -------------------------------------------------------------------------------------------------------------


def test_the_protocol_hears_everything_in_order(run):
    async def main():
        transport, protocol = await execute("sh", "-c", "cat; echo err >&2")
        transport.get_pipe_transport(0).write(b"through")
        transport.get_pipe_transport(0).close()
        await protocol.closed
        assert protocol.data == {1: b"through", 2: b"err\n"}
        events = protocol.events
        assert events[0] == "connection_made"
        assert events[-1] == ("connection_lost", None)
        assert sorted(map(str, events[1:-1])) == sorted(
            map(
                str,
                [
                    ("data", 1),
                    ("data", 2),
                    ("lost", 0, type(None)),
                    ("lost", 1, type(None)),
                    ("lost", 2, type(None)),
                    "process_exited",
                ],
            )
        )
        for fd in (1, 2):
            assert events.index(("data", fd)) < events.index(("lost", fd, type(None)))
        transport.close()

    run(main())


def test_a_transport_says_what_it_is(run):
    async def main():
        transport, protocol = await execute(*BLOCKED, stderr=None)
        assert isinstance(transport, asyncio.SubprocessTransport)
        process = transport.get_extra_info("subprocess")
        assert type(process) is subprocess.Popen
        assert transport.get_pid() == process.pid
        assert transport.get_returncode() is None
        assert transport.get_protocol() is protocol
        assert isinstance(transport.get_pipe_transport(0), asyncio.WriteTransport)
        assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
        assert transport.get_pipe_transport(2) is None
        assert not transport.is_closing()
        assert repr(transport).split("SubprocessTransport ")[1].startswith(f"pid={process.pid} running stdin=<")
        transport.kill()
        await protocol.closed
        assert transport.get_returncode() == process.returncode == -signal.SIGKILL
        assert f"pid={process.pid} returncode=-9" in repr(transport)
        for method in (transport.kill, transport.terminate, lambda: transport.send_signal(0)):
            with pytest.raises(ProcessLookupError):
                method()
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert "SubprocessTransport closed pid=" in repr(transport)

    run(main())


def test_closing_the_transport_kills_a_running_child(run):
    async def main():
        transport, protocol = await execute(*BLOCKED)
        transport.close()
        assert await transport._wait() == -signal.SIGKILL
        await protocol.closed
        assert protocol.events.count("process_exited") == 1

    run(main())


@a_thread_of_asyncio_races_before_3_12
@pytest.mark.oracle_differs("asyncio's close() collects the child, and its watcher then reports 255")
def test_closing_the_transport_leaves_a_finished_child_its_exit_status(run, loop_factory, asyncio_log):
    async def main():
        transport, protocol = await execute("sh", "-c", "read go; exit 5", stdout=None, stderr=None)
        transport.get_pipe_transport(0).write(b"go\n")
        os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)  # it has ended; the loop does not know yet
        assert transport.get_returncode() is None
        transport.close()
        assert await transport._wait() == (5 if loop_factory.is_hayase else 255)
        await protocol.closed
        assert len(asyncio_log.messages()) == (0 if loop_factory.is_hayase else 1)

    run(main())


@send_signal_collects_before_3_13
def test_a_signal_to_a_finished_child_is_no_error_until_it_is_told(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "read go; exit 6", stdin=PIPE)
        process.stdin.write(b"go\n")
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.send_signal(signal.SIGUSR1)
        process.terminate()
        process.kill()
        assert await process.wait() == 6
        process.stdin.close()

    run(main())


def test_many_can_wait_for_one_child_and_some_be_cancelled(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "read go; exit 7", stdin=PIPE)
        waits = [asyncio.ensure_future(process.wait()) for _ in range(10)]
        await asyncio.sleep(0)
        for wait in waits[::2]:
            wait.cancel()
        process.stdin.write(b"go\n")
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert answers[1::2] == [7] * 5
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert await process.wait() == 7

    run(main())


@pytest.mark.hayase_only("asyncio before 3.14.4 waits for the pipes as well, and so for the grandchild")
def test_waiting_ends_with_the_child_though_a_grandchild_holds_its_pipes(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 1000 & echo $!; exit 8", stdout=PIPE)
        grandchild = int(await process.stdout.readline())
        try:
            assert await process.wait() == 8
            assert process.returncode == 8
            assert not process.stdout.at_eof()
        finally:
            os.kill(grandchild, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # init collects it; in a container, that may be us
                os.waitpid(grandchild, 0)
        assert await process.stdout.read() == b""
        assert await process.wait() == 8

    run(main())


@pytest.mark.parametrize("where", ["connection_made", "process_exited", "pipe_data_received", "connection_lost"])
def test_an_exception_of_the_protocol_is_reported_and_the_rest_goes_on(run, asyncio_log, where):
    class Failing(Events):
        pass

    def fail(self, *args):
        getattr(super(Failing, self), where)(*args)
        raise ZeroDivisionError(where)

    setattr(Failing, where, fail)

    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Failing, "echo", "data")
        await protocol.closed
        assert protocol.data[1] == b"data\n"
        assert await transport._wait() == 0 if transport._loop else transport.get_returncode() == 0
        transport.close()
        await asyncio.sleep(0)

    run(main())
    (report,) = asyncio_log.take()
    assert report.getMessage().startswith("Exception in callback")
    assert report.exc_info[0] is ZeroDivisionError


# Cancelling, forgetting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(6))
def test_a_spawn_cancelled_at_any_point_leaves_nothing_behind(run, turns):
    async def main():
        task = asyncio.create_task(asyncio.create_subprocess_exec(*BLOCKED, stdin=PIPE, stdout=PIPE, stderr=PIPE))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            process = await task
        except asyncio.CancelledError:
            return
        process.kill()
        await process.communicate()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of asyncio before 3.14
        run(main())
        run(asyncio.sleep(0))
        gc.collect()


@asyncio_fails_before(3, 14, because="asyncio leaves the pipes to the collector and waits for them for ever")
def test_pipes_that_cannot_be_connected_end_the_child(loop, run):
    async def refuse(*_):
        raise OSError(errno.ENOMEM, "no pipes today")

    loop.connect_read_pipe = refuse

    async def main():
        with pytest.raises(OSError, match="no pipes today"):
            await asyncio.create_subprocess_exec(*BLOCKED, stdin=PIPE, stdout=PIPE)

    run(main())


@pytest.mark.hayase_only("asyncio's way of forgetting depends on its version's child watcher")
def test_a_loop_closed_under_a_child_kills_it_with_a_warning(loop, run):
    async def main():
        transport, _ = await execute(*BLOCKED, stdin=None, stdout=None, stderr=None)
        return transport, transport.get_extra_info("subprocess")

    transport, process = run(main())
    with pytest.warns(ResourceWarning, match="unclosed transport <SubprocessTransport pid=[0-9]+ running>"):
        loop.close()
        del transport
        gc.collect()
    assert process.wait() == -signal.SIGKILL


# Who collects whom -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [400])
@pytest.mark.timeout(120)
def test_a_storm_of_children_that_end_at_once_loses_no_return_code(run, count):
    async def main():
        reader, writer = os.pipe()
        try:
            children = []
            for number in range(count):
                command = f"read go; exit {number % 250}"
                children.append(await asyncio.create_subprocess_exec("sh", "-c", command, stdin=reader))
        finally:
            os.close(reader)
            os.close(writer)  # "end of file" for all of them
        codes = await asyncio.gather(*(child.wait() for child in children))
        assert codes == [number % 250 for number in range(count)]

    run(main())


@pytest.mark.timeout(120)
@pytest.mark.hayase_only("it is about hayase's descriptors")
def test_a_thousand_children_at_once_cost_a_descriptor_each_and_give_it_back(run):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))

    async def main():
        before = len(os.listdir("/proc/self/fd"))
        reader, writer = os.pipe()
        children = [await asyncio.create_subprocess_exec("cat", stdin=reader) for _ in range(1000)]
        assert len(os.listdir("/proc/self/fd")) == before + 2 + 1000
        os.close(reader)
        os.close(writer)
        assert await asyncio.gather(*(child.wait() for child in children)) == [0] * 1000
        assert len(os.listdir("/proc/self/fd")) == before

    try:
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_children_of_others_are_left_alone(run):
    other = subprocess.Popen(["sh", "-c", "exit 9"])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)

    async def main():
        for code in range(5):
            process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
            assert await process.wait() == code

    run(main())
    assert other.wait() == 9


def test_sigchld_stays_the_programs(run):
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    handler = signal.getsignal(signal.SIGCHLD)

    async def main():
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert signal.getsignal(signal.SIGCHLD) is handler

    try:
        run(main())
        assert seen
    finally:
        signal.signal(signal.SIGCHLD, before)


@a_thread_of_asyncio_races_before_3_12
def test_a_child_that_somebody_else_collected_is_255_with_a_warning(run, asyncio_log):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "read go; exit 3", stdin=PIPE)
        process.stdin.write(b"go\n")
        assert os.waitpid(process.pid, 0) == (process.pid, 3 << 8)
        assert await process.wait() == 255
        (text,) = asyncio_log.messages()
        assert text == f"child process pid {process.pid} exit status already read:  will report returncode 255"

    run(main())


@a_thread_of_asyncio_races_before_3_12
@pytest.mark.oracle_differs("asyncio says 255 though the Popen object knows better")
def test_an_exit_status_that_the_popen_object_has_is_not_lost(run, loop_factory, asyncio_log):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "read go; exit 3", stdin=PIPE)
        process.stdin.write(b"go\n")
        popen = process._transport.get_extra_info("subprocess")
        assert popen.wait() == 3
        assert await process.wait() == (3 if loop_factory.is_hayase else 255)
        assert len(asyncio_log.messages()) == (0 if loop_factory.is_hayase else 1)

    run(main())


@pytest.mark.hayase_only("asyncio fails with ProcessLookupError or warns, by version and luck")
def test_a_program_that_ignores_sigchld_hears_255(run, asyncio_log):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
        assert await process.wait() == 255
        assert len(asyncio_log.messages()) == 1

    try:
        run(main())
    finally:
        signal.signal(signal.SIGCHLD, before)


class WhereItIsCalled(asyncio.SubprocessProtocol):
    """Notes the value of a context variable in each of its methods."""

    def __init__(self):
        self.seen = []
        self.lost = asyncio.get_running_loop().create_future()

    def note(self, method):
        self.seen.append((method, variable.get()))

    def connection_made(self, transport):
        self.note("connection_made")

    def pipe_data_received(self, fd, data):
        self.note("pipe_data_received")

    def pipe_connection_lost(self, fd, exc):
        self.note("pipe_connection_lost")

    def process_exited(self):
        self.note("process_exited")

    def connection_lost(self, exc):
        self.note("connection_lost")
        self.lost.set_result(None)


async def where_it_is_called(loop):
    variable.set("the caller's")
    transport, protocol = await loop.subprocess_exec(WhereItIsCalled, "sh", "-c", "cat; echo >&2")
    stdin = transport.get_pipe_transport(0)
    stdin.write(b"data")
    stdin.write_eof()
    await protocol.lost
    transport.close()
    return protocol.seen


@asyncio_fails_before(3, 12, because="asyncio tells the end of a child through a thread, in the context of the loop")
def test_every_method_of_the_protocol_is_called_in_the_context_of_who_started_the_child(loop, run):
    seen = run(where_it_is_called(loop))
    assert {method for method, _ in seen} == {name for name in vars(WhereItIsCalled) if name[0] != "_"} - {"note"}
    assert {value for _, value in seen} == {"the caller's"}


# Without pidfds ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_pidfd(loop, monkeypatch):
    """The system refuses pidfds, as old kernels and some sandboxes do."""

    def refuse(pid, callback):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    loop._watch_child = refuse


@pytest.mark.hayase_only("asyncio's fallback is its own")
@pytest.mark.parametrize("count", [1, 50])
def test_without_pidfds_threads_wait_and_no_return_code_is_lost(run, without_pidfd, count):
    async def one(number):
        process = await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {number}", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"data %d" % number)
        return out, process.returncode

    async def main():
        answers = await asyncio.gather(*map(one, range(count)))
        assert answers == [(b"data %d" % number, number) for number in range(count)]

    run(main())


@pytest.mark.hayase_only("asyncio's fallback is its own")
def test_without_pidfds_the_protocol_is_called_in_the_same_context(loop, run, without_pidfd):
    assert {value for _, value in run(where_it_is_called(loop))} == {"the caller's"}


@pytest.mark.hayase_only("asyncio's fallback is its own")
def test_without_pidfds_signals_and_closing_work(run, without_pidfd):
    async def main():
        process = await asyncio.create_subprocess_exec(*BLOCKED)
        process.terminate()
        assert await process.wait() == -signal.SIGTERM
        transport, protocol = await execute(*BLOCKED)
        transport.close()
        await protocol.closed
        assert transport.get_returncode() == -signal.SIGKILL

    run(main())


@pytest.mark.hayase_only("asyncio's fallback is its own")
def test_without_pidfds_a_child_collected_by_others_is_255_with_a_warning(run, without_pidfd, asyncio_log):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "read go; exit 3", stdin=PIPE)
        assert [thread for thread in threading.enumerate() if thread.name == f"hayase-waitpid-{process.pid}"]
        process.stdin.write(b"go\n")
        os.waitpid(process.pid, 0)
        assert await process.wait() == 255
        assert len(asyncio_log.messages()) == 1

    run(main())


@pytest.mark.hayase_only("asyncio's fallback is its own")
def test_without_pidfds_a_child_that_outlives_the_loop_is_collected(loop, run, without_pidfd, asyncio_log):
    async def main():
        transport, _ = await execute(*BLOCKED, stdin=None, stdout=None, stderr=None)
        return transport.get_pid(), transport.get_extra_info("subprocess")

    pid, process = run(main())
    loop.close()
    os.kill(pid, signal.SIGKILL)
    for thread in threading.enumerate():
        if thread.name == f"hayase-waitpid-{pid}":
            thread.join(10)
    assert process.returncode == -signal.SIGKILL
    assert [text for text in asyncio_log.messages() if "is closed" in text]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# Threads, watchers -----------------------------------------------------------------------------------------------------------------


def test_loops_in_other_threads_run_children(loop_factory):
    answers = {}

    def work(number):
        async def main():
            process = await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {number}", stdin=PIPE, stdout=PIPE)
            return await process.communicate(b"data"), process.returncode

        loop = loop_factory()
        try:
            answers[number] = loop.run_until_complete(main())
        finally:
            loop.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: ((b"data", None), number) for number in range(8)}


@before_3_14
@pytest.mark.parametrize("name", ["SafeChildWatcher", "FastChildWatcher", "ThreadedChildWatcher", "PidfdChildWatcher"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_watcher_of_the_programs_works(loop, run, name):
    policy = asyncio.get_event_loop_policy()
    watcher = getattr(asyncio, name)()
    watcher.attach_loop(loop)
    policy.set_child_watcher(watcher)

    async def main():
        assert policy.get_child_watcher() is watcher
        for code in range(3):
            process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
            assert await process.wait() == code

    try:
        run(main())
    finally:
        watcher.attach_loop(None)
        policy.set_child_watcher(None)


@before_3_14
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.hayase_only("it is about hayase's policy")
def test_the_policy_has_a_child_watcher_for_who_asks():
    import hayase

    policy = hayase.EventLoopPolicy()
    watcher = policy.get_child_watcher()
    assert isinstance(watcher, asyncio.AbstractChildWatcher)
    assert policy.get_child_watcher() is watcher
    policy.set_child_watcher(None)


# Debug mode --------------------------------------------------------------------------------------------------------------------------


def test_debug_mode_tells_of_children(loop, run, caplog):
    import logging

    loop.set_debug(True)

    async def main():
        transport, protocol = await execute("sh", "-c", "exit 3", stderr=STDOUT)
        await protocol.closed
        transport.close()
        transport, protocol = await asyncio.get_running_loop().subprocess_shell(Events, "exec sleep 1000")
        transport.close()
        await protocol.closed

    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        logging.getLogger("asyncio").addHandler(caplog.handler)
        try:
            run(main())
        finally:
            logging.getLogger("asyncio").removeHandler(caplog.handler)
    told = "\n".join(record.getMessage() for record in caplog.records)
    for text in (
        "execute program 'sh' stdin=<pipe> stdout=stderr=<pipe>",
        "process 'sh' created: pid ",
        "exited with return code 3",
        "run shell command 'exec sleep 1000' stdin=<pipe> stdout=<pipe> stderr=<pipe>",
        "Close running child process: kill <",
    ):
        assert text in told


def test_output_that_was_written_before_the_end_is_never_lost(run):
    async def one(number):
        process = await asyncio.create_subprocess_exec("sh", "-c", f"echo {number}; exit {number}", stdout=PIPE)
        out, _ = await process.communicate()
        return out, process.returncode

    async def main():
        for start in range(0, 100, 20):
            answers = await asyncio.gather(*map(one, range(start, start + 20)))
            assert answers == [(b"%d\n" % number, number) for number in range(start, start + 20)]

    run(main())


@send_signal_collects_before_3_13
def test_killing_and_ending_at_the_same_time_gives_one_of_the_two(run):
    async def main():
        codes = set()
        for _ in range(30):
            process = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
            codes.add(process.returncode)
        assert codes <= {0, -signal.SIGKILL}

    run(main())


# hayase's own streams ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def subprocess_module(aio):
    """`asyncio.subprocess`, and hayase's twin of it."""
    return aio.subprocess


def test_the_pipes_of_a_process_are_streams(run, subprocess_module):
    data = payload(3_000_000)

    async def main():
        process = await subprocess_module.create_subprocess_exec(
            "sh", "-c", "cat; echo oops >&2; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert isinstance(process, subprocess_module.Process)
        assert isinstance(process.stdin, asyncio.StreamWriter)
        for reader in (process.stdout, process.stderr):
            assert isinstance(reader, asyncio.StreamReader)
        assert await process.communicate(data) == (data, b"oops\n")
        assert process.returncode == 3
        await process.stdin.wait_closed()

    run(main())


def test_the_streams_of_a_process_read_lines_and_wait_for_room(run, subprocess_module):
    async def main():
        process = await subprocess_module.create_subprocess_shell("cat", stdin=PIPE, stdout=PIPE)

        async def write():
            for number in range(3000):
                process.stdin.write(b"line %d\n" % number * 20)
                await process.stdin.drain()
            process.stdin.close()
            await process.stdin.wait_closed()

        task = asyncio.ensure_future(write())
        lines = [line async for line in process.stdout]
        await task
        assert lines == [b"line %d\n" % number for number in range(3000) for _ in range(20)]
        assert await process.wait() == 0
        assert process.stderr is None

    run(main())


def test_the_limit_of_a_process_bounds_its_lines(run, subprocess_module):
    async def main():
        process = await subprocess_module.create_subprocess_exec(
            "sh", "-c", "echo 0123456789; echo ab", stdout=PIPE, limit=5
        )
        with pytest.raises(ValueError, match="chunk"):
            await process.stdout.readline()
        assert await process.stdout.read() in (b"", b"ab\n")
        assert await process.wait() == 0

    run(main())


def test_a_writer_whose_child_dies_hears_of_it_while_it_waits_for_room(run, subprocess_module):
    async def main():
        process = await subprocess_module.create_subprocess_exec(*BLOCKED, stdin=PIPE)
        process.stdin.write(payload(1_000_000))
        draining = asyncio.ensure_future(process.stdin.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        process.kill()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await draining
        assert await process.wait() == -signal.SIGKILL

    run(main())


def test_the_module_has_every_name_of_asyncios(subprocess_module):
    for name in ("DEVNULL", "PIPE", "STDOUT", "Process", "SubprocessStreamProtocol", "streams", "tasks"):
        assert hasattr(subprocess_module, name)
    with pytest.raises(AttributeError):
        subprocess_module.no_such_name  # noqa: B018


@pytest.mark.hayase_only("it is about hayase's classes")
def test_hayases_processes_have_hayases_streams(run):
    import hayase

    async def main():
        process = await hayase.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert type(process.stdin) is hayase.StreamWriter
        assert type(process.stdout) is hayase.StreamReader
        # Without an input, 3.11 would leave stdin open and `cat` waiting.
        await process.communicate(b"")

    run(main())
