"""A proxy that holds every request back for some time, as a network between machines does: HOST:PORT, seconds."""

from __future__ import annotations

import asyncio
import sys

PIECE = 1 << 20


async def serve(upstream: str, seconds: float) -> None:
    """Print the port, and relay until killed. What a client sends in one piece counts as one request: reads do."""
    host, _, port = upstream.partition(":")

    async def relay(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=PIECE)
        back = asyncio.create_task(_pump(reader, answer, 0.0))
        await _pump(client, writer, seconds)
        await back

    server = await asyncio.start_server(relay, "127.0.0.1", 0, limit=PIECE)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, seconds: float) -> None:
    try:
        while piece := await source.read(PIECE):
            await asyncio.sleep(seconds)
            target.write(piece)
            await target.drain()
    except ConnectionError:
        pass
    finally:
        target.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2])))
