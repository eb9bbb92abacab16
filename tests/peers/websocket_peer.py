"""WebSocket, both ends.

    websocket_peer.py serve PORT   sends every message back
    websocket_peer.py talk URL     text, a large binary message, a ping; prints JSON
"""

import asyncio
import json
import sys

import websockets

LARGE = bytes(range(256)) * 1024


async def echo(socket):
    async for message in socket:
        await socket.send(message)
    # Leaving closes in order, with the client's own code.


async def serve(port):
    async with websockets.serve(echo, None, int(port), max_size=None):
        await asyncio.Future()


async def talk(url):
    try:
        socket = await websockets.connect(url, max_size=None)
    except websockets.InvalidStatusCode as error:
        print(json.dumps({"refused": error.status_code}))
        return
    await socket.send("hello")
    text = await socket.recv()
    await socket.send(LARGE)
    large = await socket.recv()
    await asyncio.wait_for(await socket.ping(), timeout=5)
    await socket.close(code=4001)
    print(json.dumps({"text": text, "large": large == LARGE, "closed": socket.close_code}))


if __name__ == "__main__":
    asyncio.run({"serve": serve, "talk": talk}[sys.argv[1]](sys.argv[2]))
