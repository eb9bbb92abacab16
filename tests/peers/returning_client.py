"""A client that leaves and comes back at once from the same port, again and again.

    returning_client.py LEAVING ADDRESS,PORT,SOURCE_PORT,TIMES

LEAVING is how it leaves:
  reset       resets a connection of HTTP/1 while nothing is under way
  unanswered  resets before it has its answer
  http2       resets a connection of HTTP/2
  server      waits for the server's end, so that TIME_WAIT is the server's
  first       ends first and takes the port back out of its own TIME_WAIT

Prints how many visits were answered, and what became of the others.
"""

import errno
import json
import socket
import struct
import sys
import time

HTTP2 = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    b"\0\0\0\4\0\0\0\0\0"
    # GET http://a/api/x, which ends its stream (RFC 7541 section 6).
    b"\0\0\x0d\1\5\0\0\0\1" b"\x82\x86\x04\x06/api/x\x41\x01a"
)


def request(more):
    return f"GET /api/x HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode()


def until(stream, wanted):
    """Reads until the answer has come, or the server ends."""
    seen = b""
    while not wanted(seen):
        piece = stream.recv(65536)
        if not piece:
            raise OSError(f"ended after {seen!r}")
        seen += piece
    return seen


def answered(seen):
    """Is there a head of HTTP/1, and as much of a body as it says?"""
    head, empty, body = seen.partition(b"\r\n\r\n")
    if not empty:
        return False
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(length) and len(body) >= int(length[0].split(b":")[1])


def has_status(seen):
    """Is there a whole frame HEADERS whose block begins with `:status 200`?"""
    while len(seen) >= 9:
        length = int.from_bytes(seen[:3], "big")
        kind, payload = seen[3], seen[9 : 9 + length]
        if kind == 1 and len(payload) == length:
            return b"\x88" in payload[:4]
        seen = seen[9 + length :]
    return False


def connect(stream, server):
    """Connects, once this end of the last connection has come as far as TIME_WAIT."""
    until = time.monotonic() + 1
    while True:
        try:
            return stream.connect(server)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > until:
                raise
            time.sleep(0.001)


def visit(leaving, server, port):
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(5)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind(("", port))
        connect(stream, server)
        if leaving == "http2":
            stream.sendall(HTTP2)
            until(stream, has_status)
        elif leaving == "server":
            stream.sendall(request("Connection: close\r\n"))
            seen = until(stream, answered)
            if not seen.startswith(b"HTTP/1.1 200 "):
                raise OSError(f"answered {seen!r}")
            while stream.recv(65536):
                pass
        else:
            stream.sendall(request(""))
            if leaving != "unanswered":
                seen = until(stream, answered)
                if not seen.startswith(b"HTTP/1.1 200 "):
                    raise OSError(f"answered {seen!r}")
        if leaving in ("reset", "unanswered", "http2"):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main():
    leaving, target = sys.argv[1:]
    address, port, source, times = target.split(",")
    failures, slowest = [], 0.0
    for number in range(int(times)):
        # One that is not looked at is not counted: every other visit leaves in time.
        way = "reset" if leaving == "unanswered" and number % 2 else leaving
        began = time.monotonic()
        try:
            visit(way, (address, int(port)), int(source))
        except OSError as error:
            failures.append(f"visit {number}: {error!r}")
        slowest = max(slowest, time.monotonic() - began)
    print(json.dumps({"failures": failures, "slowestMs": slowest * 1000}))


main()
