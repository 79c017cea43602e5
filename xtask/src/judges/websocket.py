# `serve ADDRESS PORT`: echoes messages, prints its port, and ends with its input.
# `talk URI`: sends messages of many sizes, checks the echoes, and prints a summary.
import asyncio, os, sys, threading
import websockets


async def echo(socket, path=None):
    try:
        async for message in socket:
            await socket.send(message)
    except websockets.ConnectionClosedError:
        # A close with a code of the application, such as 4000.
        pass


async def serve(address, port):
    server = await websockets.serve(echo, address, port, max_size=None, compression=None)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()


def connect(uri):
    return websockets.connect(uri, max_size=None, compression=None, open_timeout=60, ping_interval=None)


async def one(uri, text):
    async with connect(uri) as socket:
        await socket.send(text)
        assert await socket.recv() == text


async def talk(uri):
    # A length for each form of a frame's length field (RFC 6455, section 5.2), and its borders.
    messages = ['', 'ü' * 1000, os.urandom(125), os.urandom(126), os.urandom(65536), os.urandom(4 << 20)]
    async with connect(uri) as socket:
        for message in messages:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping(b'ping'))

        async def send():
            for i in range(1000):
                await socket.send(f'{i}')

        sender = asyncio.ensure_future(send())
        for i in range(1000):
            assert await socket.recv() == f'{i}'
        await sender
        await socket.close(4000, 'done')
        code = socket.close_code
    await asyncio.gather(*(one(uri, f'{i}') for i in range(30)))
    print(f'{len(messages) + 1000} messages, 30 connections at once, close {code}')


asyncio.run(serve(sys.argv[2], int(sys.argv[3])) if sys.argv[1] == 'serve' else talk(sys.argv[2]))
