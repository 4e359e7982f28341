"""An echo server and some clients, with asyncio's streams, on hayase's loop by name."""

import asyncio

import hayase


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def client(port: int, name: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"hello from {name}\n".encode())
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.decode().strip()


async def main() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answers = await asyncio.gather(*(client(port, f"client {number}") for number in range(5)))
        # The server's side of each connection ends by itself, a moment after the client's.
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)
    print("\n".join(answers))


if __name__ == "__main__":
    hayase.run(main())
