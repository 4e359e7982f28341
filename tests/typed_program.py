"""A typical program that says `import hayase as asyncio`. `make lint` has the type checker pass it, strictly; a test runs it."""

import hayase as asyncio
from hayase import Queue


async def work(queue: Queue[int], lock: asyncio.Lock) -> int:
    async with lock:
        await queue.put(1)
    async with asyncio.timeout(1):
        number: int = await queue.get()
    queue.task_done()
    return number


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    line: bytes = await reader.readline()
    writer.write(line)
    await writer.drain()


async def main() -> list[int]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    future.set_result("done")
    text: str = await asyncio.wait_for(future, 1)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.TaskGroup() as group:
        task: asyncio.Task[int] = group.create_task(work(Queue(), asyncio.Lock()))
    numbers = await asyncio.gather(work(Queue(), asyncio.Lock()), asyncio.to_thread(len, text))
    finished, pending = await asyncio.wait([task])
    try:
        await asyncio.sleep(0)
    except (asyncio.CancelledError, asyncio.TimeoutError, asyncio.QueueEmpty):
        raise
    process = await asyncio.create_subprocess_exec("true", stdout=asyncio.subprocess.PIPE)
    code: int = await process.wait()
    return [code, *numbers, *(each.result() for each in finished | pending)]


with asyncio.Runner(loop_factory=asyncio.EventLoop) as runner:
    first: list[int] = runner.run(main())
second = asyncio.run(main(), debug=False)
assert first == second
print(first)
