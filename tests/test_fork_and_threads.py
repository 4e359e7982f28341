"""Forks, other processes, many threads, sub-interpreters: what a program does around its loops.

Each story is a program of its own, because a fork or a signal concerns the whole process.
"""

from __future__ import annotations

import sys

import pytest

since_3_12 = sys.version_info >= (3, 12)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def ended_well(done, output):
    assert (done.returncode, done.stdout) == (0, output), done.stderr
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr, done.stderr


# Fork ----------------------------------------------------------------------------------------------------------------


def test_a_fork_in_a_running_loop_leaves_the_parent_alone_and_the_child_can_run_its_own(program):
    done = program("""
        async def echo_once(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        async def child_main():
            await asyncio.sleep(0.001)
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.send(b"in the child\\n")
            line = await reader.readline()
            writer.close()
            theirs.close()
            return line

        async def main():
            loop = asyncio.get_running_loop()
            server = await asyncio.start_server(echo_once, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            timer = loop.create_task(asyncio.sleep(0.01, "timer"))
            await asyncio.sleep(0)
            pid = os.fork()
            if pid == 0:
                try:
                    assert asyncio._get_running_loop() is None
                    own = new_event_loop()
                    line = own.run_until_complete(child_main())
                    own.close()
                    os._exit(0 if line == b"in the child\\n" else 2)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(3)
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            writer.write(b"in the parent\\n")
            line = await reader.readline()
            assert await timer == "timer"
            writer.close()
            server.close()
            print(os.waitstatus_to_exitcode(status), line)

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    """)
    assert (done.returncode, done.stdout) == (0, "0 b'in the parent\\n'\n"), done.stderr


def test_a_forked_child_may_close_the_loop_it_inherited_without_disturbing_the_parent(program):
    done = program("""
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        ours, theirs = socket.socketpair()
        seen = []
        loop.add_reader(ours, lambda: (seen.append(ours.recv(10)), loop.stop()))
        pid = os.fork()
        if pid == 0:
            loop.close()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        loop.call_later(0.001, theirs.send, b"later")
        loop.run_forever()
        loop.remove_reader(ours)
        loop.close()
        print(os.waitstatus_to_exitcode(status), seen)
    """)
    # The selector of a stock loop shares its epoll descriptor with the child; closing there only drops the child's copy.
    assert (done.returncode, done.stdout) == (0, "0 [b'later']\n"), done.stderr


def test_forks_of_forks_have_loops_of_their_own(program):
    done = program("""
        async def generation(number):
            if number == 0:
                return 0
            await asyncio.sleep(0)
            pid = os.fork()
            if pid == 0:
                try:
                    assert asyncio._get_running_loop() is None
                    with asyncio.Runner(loop_factory=new_event_loop) as runner:
                        os._exit(runner.run(generation(number - 1)) + 1)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(99)
            _, status = os.waitpid(pid, 0)
            await asyncio.sleep(0.001)
            return os.waitstatus_to_exitcode(status)

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            print(runner.run(generation(4)))
    """)
    ended_well(done, "4\n")


@pytest.mark.oracle_differs("asyncio runs it, on the selector that it shares with its parent")
def test_a_child_cannot_run_the_loop_of_its_parent(program, loop_factory):
    done = program("""
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        pid = os.fork()
        if pid == 0:
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except RuntimeError as error:
                print(error, flush=True)
                os._exit(5)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        print(os.waitstatus_to_exitcode(status))
    """)
    refusal = "this event loop belongs to the parent process; make a new one after fork()\n5\n"
    ended_well(done, refusal if loop_factory.is_hayase else "0\n")


@pytest.mark.hayase_only("the child of a stock loop shares the epoll set, and takes its parent's descriptors out of it")
def test_a_child_that_ends_normally_leaves_the_connections_of_its_parent_alone(program):
    done = program("""
        async def main():
            async def answer(reader, writer):
                while line := await reader.readline():
                    writer.write(line.upper())
                writer.close()

            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"before\\n")
            print(await reader.readline(), flush=True)
            writer.write(b"corked when the fork happens\\n")
            pid = os.fork()
            if pid == 0:
                sys.exit(0)  # the interpreter ends, with everything it inherited
            await asyncio.to_thread(os.waitpid, pid, 0)
            print(await reader.readline())
            writer.write(b"after\\n")
            print(await reader.readline())
            writer.close()
            await writer.wait_closed()
            server.close()

        loop = new_event_loop()
        try:
            loop.run_until_complete(main())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
    """)
    ended_well(done, "b'BEFORE\\n'\nb'CORKED WHEN THE FORK HAPPENS\\n'\nb'AFTER\\n'\n")


@pytest.mark.oracle_differs("3.11's asyncio leaves the parent's wake-up descriptor to the child")
def test_a_signal_of_a_child_does_not_reach_the_loop_of_its_parent(program, loop_factory):
    done = program("""
        import time
        seen = []

        async def main():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "parent")
            pid = os.fork()
            if pid == 0:
                handled = []
                signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
                os.kill(os.getpid(), signal.SIGUSR1)

                async def child():
                    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, handled.append, "own")
                    os.kill(os.getpid(), signal.SIGUSR1)
                    os.kill(os.getpid(), signal.SIGUSR2)
                    await asyncio.sleep(0.01)

                own = new_event_loop()
                own.run_until_complete(child())
                own.close()
                os._exit(len(handled))
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            await asyncio.sleep(0.01)
            print(os.waitstatus_to_exitcode(status), seen)
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            print("parent" in seen)
            loop.remove_signal_handler(signal.SIGUSR1)

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    """)
    heard_by_the_parent = [] if since_3_12 or loop_factory.is_hayase else ["parent"]
    ended_well(done, f"3 {heard_by_the_parent}\nTrue\n")


def test_lookups_work_in_a_child_of_a_program_that_looked_up_names(program):
    done = program("""
        async def look():
            return (await asyncio.get_running_loop().getaddrinfo("localhost", 80, family=socket.AF_INET))[0][4]

        async def main():
            print(await look())
            pid = os.fork()
            if pid == 0:
                own = new_event_loop()
                found = own.run_until_complete(look())
                own.run_until_complete(own.shutdown_default_executor())
                own.close()
                os._exit(0 if found == ("127.0.0.1", 80) else 1)
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            print(os.waitstatus_to_exitcode(status), await look())

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    """)
    ended_well(done, "('127.0.0.1', 80)\n0 ('127.0.0.1', 80)\n")


def test_a_unix_server_closed_in_a_child_leaves_the_file_to_the_parent(program, tmp_path):
    done = program(
        f"""
        path = {str(tmp_path / "s")!r}

        async def main():
            server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
            pid = os.fork()
            if pid == 0:
                # asyncio's would remove it
                if SIDE == "hayase":
                    server.close()
                os._exit(0 if os.path.exists(path) else 1)
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            reader, writer = await asyncio.open_unix_connection(path)
            print(os.waitstatus_to_exitcode(status), await reader.read())
            writer.close()
            server.close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """
    )
    ended_well(done, "0 b''\n")


# Other processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_works_in_a_program_with_a_running_loop(program, method):
    done = program(
        f"""
        import multiprocessing

        async def work(number):
            await asyncio.sleep(0)
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.send(b"%d\\n" % (number * number))
            line = await reader.readline()
            writer.close()
            theirs.close()
            return int(line)

        def child(number, connection):
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                connection.send(runner.run(work(number)))

        async def main():
            loop = asyncio.get_running_loop()
            context = multiprocessing.get_context({method!r})
            pairs = [context.Pipe(duplex=False) for _ in range(3)]
            processes = [
                context.Process(target=child, args=(number, pair[1])) for number, pair in enumerate(pairs)
            ]
            for process in processes:
                process.start()
            found = []
            for ours, _ in pairs:
                ready = loop.create_future()
                loop.add_reader(ours, ready.set_result, None)
                await ready
                loop.remove_reader(ours)
                found.append(ours.recv())
            for process in processes:
                await asyncio.to_thread(process.join)
            print(found, [process.exitcode for process in processes])

        if __name__ == "__main__":
            loop = new_event_loop()
            loop.run_until_complete(main())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        """
    )
    ended_well(done, "[0, 1, 4] [0, 0, 0]\n")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_pool_of_processes_is_an_executor(program, method):
    done = program(
        f"""
        import concurrent.futures, multiprocessing

        async def add(a, b):
            await asyncio.sleep(0)
            return a + b

        def in_child(a, b):
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                return runner.run(add(a, b))

        async def main():
            loop = asyncio.get_running_loop()
            context = multiprocessing.get_context({method!r})
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                jobs = [loop.run_in_executor(pool, in_child, number, number) for number in range(6)]
                print(await asyncio.gather(*jobs))

        if __name__ == "__main__":
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        """
    )
    ended_well(done, "[0, 2, 4, 6, 8, 10]\n")


# Threads -------------------------------------------------------------------------------------------------------------


def test_loops_in_many_threads_work_side_by_side(program):
    done = program("""
        async def echo(reader, writer):
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        async def main(number):
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for turn in range(50):
                writer.write(b"%d %d\\n" % (number, turn))
                assert await reader.readline() == b"%d %d\\n" % (number, turn)
                await asyncio.sleep(0)
            writer.close()
            server.close()
            await asyncio.to_thread(results.append, number)

        def thread(number):
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main(number))

        results = []
        threads = [threading.Thread(target=thread, args=(number,)) for number in range(12)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        print(sorted(results) == list(range(12)))
    """)
    ended_well(done, "True\n")


def test_threads_hand_work_to_each_others_loops(program):
    done = program("""
        COUNT, ROUNDS = 6, 300

        def thread(loop):
            asyncio.set_event_loop(loop)
            loop.run_forever()

        async def work(counts, index):
            counts[index] += 1
            await asyncio.sleep(0)
            return index

        loops = [new_event_loop() for _ in range(COUNT)]
        threads = [threading.Thread(target=thread, args=(loop,)) for loop in loops]
        for one in threads:
            one.start()
        counts = [0] * COUNT
        orders = [[] for _ in range(COUNT)]

        def hammer(start):
            futures = []
            for turn in range(ROUNDS):
                index = (start + turn) % COUNT
                loops[index].call_soon_threadsafe(orders[index].append, (start, turn))
                futures.append(asyncio.run_coroutine_threadsafe(work(counts, index), loops[index]))
            assert [future.result() for future in futures] == [(start + turn) % COUNT for turn in range(ROUNDS)]

        hammers = [threading.Thread(target=hammer, args=(start,)) for start in range(COUNT)]
        for one in hammers:
            one.start()
        for one in hammers:
            one.join()
        for loop in loops:
            loop.call_soon_threadsafe(loop.stop)
        for one in threads:
            one.join()
        for loop in loops:
            loop.close()
        in_order = all(
            [turn for start, turn in order if start == who] == sorted(turn for start, turn in order if start == who)
            for order in orders for who in range(COUNT)
        )
        print(sum(counts) == COUNT * ROUNDS, in_order)
    """)
    ended_well(done, "True True\n")


def test_a_loop_may_be_made_in_one_thread_and_run_in_others_one_after_the_other(program):
    done = program("""
        loop = new_event_loop()
        results = []

        def run():
            results.append(loop.run_until_complete(asyncio.sleep(0.001, threading.current_thread().name)))

        for name in ("a", "b"):
            one = threading.Thread(target=run, name=name)
            one.start()
            one.join()
        run()
        loop.close()
        print(results)
    """)
    ended_well(done, "['a', 'b', 'MainThread']\n")


def test_one_loop_does_not_run_in_two_threads(program):
    done = program("""
        loop = new_event_loop()
        running = threading.Event()
        loop.call_soon(running.set)
        one = threading.Thread(target=loop.run_forever)
        one.start()
        running.wait()
        for call in (loop.close, loop.run_forever):
            try:
                call()
            except RuntimeError as error:
                print(error)
        loop.call_soon_threadsafe(loop.stop)
        one.join()
        loop.close()
    """)
    ended_well(done, "Cannot close a running event loop\nThis event loop is already running\n")


def test_a_signal_reaches_the_main_thread_while_the_loop_runs_in_another(program):
    done = program("""
        loop = new_event_loop()
        errors = []

        async def main():
            try:
                loop.add_signal_handler(signal.SIGTERM, print, "never")
            except RuntimeError as error:
                errors.append(type(error).__name__)
            running.set()
            await ending
            return "told by the handler"

        running = threading.Event()
        ending = loop.create_future()
        results = []
        one = threading.Thread(target=lambda: results.append(loop.run_until_complete(main())))
        signal.signal(signal.SIGTERM, lambda number, frame: loop.call_soon_threadsafe(ending.set_result, None))
        one.start()
        running.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        one.join()
        loop.close()
        print(results, errors)
    """)
    ended_well(done, "['told by the handler'] ['RuntimeError']\n")


def test_an_interrupt_ends_a_main_thread_that_waits_for_a_loop_elsewhere(program):
    done = program("""
        loop = new_event_loop()
        running = threading.Event()
        loop.call_soon(running.set)
        one = threading.Thread(target=loop.run_forever)
        one.start()
        running.wait()
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            threading.Event().wait(30)
        except KeyboardInterrupt:
            print("interrupted")
        loop.call_soon_threadsafe(loop.stop)
        one.join()
        loop.close()
    """)
    ended_well(done, "interrupted\n")


# Sub-interpreters ----------------------------------------------------------------------------------------------------


@pytest.mark.hayase_only("asyncio's loop works in sub-interpreters; hayase refuses")
@pytest.mark.parametrize("kind", ["isolated", "shared"])
@pytest.mark.parametrize("first", [True, False], ids=["imported before", "not imported before"])
def test_a_sub_interpreter_is_refused_and_the_main_one_goes_on(program, kind, first):
    done = program(
        f"""
        if not {first!r}:
            for name in [name for name in sys.modules if name.startswith("hayase")]:
                del sys.modules[name]
        try:
            import _interpreters
            interpreter = _interpreters.create("isolated" if {kind!r} == "isolated" else "legacy")
        except ImportError:
            import _xxsubinterpreters as _interpreters
            interpreter = _interpreters.create(isolated={kind!r} == "isolated")
        _interpreters.run_string(interpreter, '''if True:
            import os, sys
            sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
            try:
                import hayase
            except ImportError as error:
                print("ImportError", "interpreter" in str(error), flush=True)
        ''')
        _interpreters.destroy(interpreter)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            print(runner.run(asyncio.sleep(0.001, "goes on")))
        """
    )
    ended_well(done, "ImportError True\ngoes on\n")


# What it does not run on ---------------------------------------------------------------------------------------------


@pytest.mark.hayase_only("asyncio works without the GIL; hayase refuses")
def test_a_free_threaded_build_is_refused_with_what_to_do(program):
    done = program(
        """
        for name in [name for name in sys.modules if name.startswith("hayase")]:
            del sys.modules[name]
        sys.abiflags += "t"
        try:
            import hayase
        except ImportError as error:
            print(str(error).partition(": ")[2].partition(" (")[0], "hayase._core" in sys.modules)
        """
    )
    ended_well(done, "use the regular build False\n")


@pytest.mark.hayase_only("asyncio has no extension module that could be missing")
def test_a_package_without_its_extension_module_says_what_to_do(program, tmp_path):
    done = program(
        f"""
        import hayase, pathlib, shutil
        package = pathlib.Path(hayase.__file__).parent
        shutil.copytree(package, {str(tmp_path / "hayase")!r}, ignore=shutil.ignore_patterns("*.so"))
        for name in [name for name in sys.modules if name.startswith("hayase")]:
            del sys.modules[name]
        sys.path.insert(0, {str(tmp_path)!r})
        try:
            import hayase
        except ImportError as error:
            print(sys.implementation.cache_tag in str(error), "make develop" in str(error))
        """
    )
    ended_well(done, "True True\n")
