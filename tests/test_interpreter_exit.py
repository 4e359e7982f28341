"""The end of the interpreter, with a loop in whatever state."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("busy", ["idle", "busy", "hammered"])
def test_the_interpreter_ends_well_with_a_loop_running_in_a_daemon_thread(program, busy):
    done = program(f"""
        import time
        busy = {busy!r}
        running = threading.Event()
        loop = new_event_loop()

        async def work():
            while busy != "idle":
                await asyncio.sleep(0)

        def background():
            loop.call_soon(running.set)
            loop.create_task(work())
            loop.run_forever()

        def hammer():
            while True:
                loop.call_soon_threadsafe(int)

        threading.Thread(target=background, daemon=True).start()
        running.wait()
        if busy == "hammered":
            threading.Thread(target=hammer, daemon=True).start()
        time.sleep(0.05)
        print("main ends")
    """)
    assert (done.returncode, done.stdout) == (0, "main ends\n"), done.stderr
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr


@pytest.mark.parametrize("state", ["never ran", "ran", "stopped with work", "closed"])
def test_the_interpreter_ends_well_with_a_loop_left_in_any_state(program, state):
    done = program(
        f"""
        state = {state!r}
        loop = new_event_loop()
        async def work(future):
            await future
        if state != "never ran":
            future = loop.create_future()
            tasks = [loop.create_task(work(future)) for _ in range(10)]
            loop.call_later(100, print, "never")
            ours, theirs = socket.socketpair()
            loop.add_reader(ours, print)
            loop.run_until_complete(asyncio.start_server(lambda r, w: None, "127.0.0.1", 0))
            loop.stop()
            loop.run_forever()
        if state == "stopped with work":
            for number in range(100):
                loop.call_soon(print, number)
        if state == "closed":
            loop.close()
        print("main ends")
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout) == (0, "main ends\n"), done.stderr
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr


@pytest.mark.parametrize("state", ["never ran", "ran", "handles a signal", "has an executor"])
def test_a_loop_that_outlives_the_modules_closes_without_a_word(program, state):
    done = program(
        f"""
        state = {state!r}
        loop = new_event_loop()
        if state != "never ran":
            loop.call_soon(loop.stop)
            loop.run_forever()
        if state == "handles a signal":
            loop.add_signal_handler(signal.SIGUSR1, print)
        if state == "has an executor":
            loop.run_until_complete(loop.run_in_executor(None, int))
        class InACycle:  # as every class is: collected after the modules, when nothing can be imported
            kept = loop
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
