"""gRPC without TLS, both ends; messages are plain bytes, so no schema is needed.

    grpc_peer.py serve PORT      the service shop.Orders: Get, Chat, Delete
    grpc_peer.py call ADDRESS    one connection, several streams at once; prints JSON
"""

import json
import queue
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "shop.Orders"
# Longer than a stream's flow-control window (64 KiB).
LARGE = bytes(range(256)) * 1024
SECONDS = 10


def get(request, context):
    """Answers with what was sent; trailers say who asked and how much."""
    context.set_trailing_metadata((("x-peer", context.peer()), ("x-sum", str(len(request)))))
    return request


def chat(requests, context):
    """Answers each message before the next one comes."""
    for request in requests:
        yield request[::-1]
    context.set_trailing_metadata((("x-peer", context.peer()),))


def serve(port):
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    handlers = {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Delete": grpc.unary_unary_rpc_method_handler(get),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def call(address):
    # A proxy set for this machine is none of the lab's.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        unary = {
            name: channel.unary_unary(f"/{SERVICE}/{name}") for name in ("Get", "Delete")
        }
        sent = queue.Queue()
        conversation = channel.stream_stream(f"/{SERVICE}/Chat")(
            iter(sent.get, None), timeout=SECONDS
        )
        result = {"chat": [], "large": [], "refused": []}
        # The conversation stays open while other streams come and go beside it.
        for word in (b"one", b"two", b"three"):
            sent.put(word)
            result["chat"].append(next(conversation).decode())
            answer, done = unary["Get"].with_call(LARGE, timeout=SECONDS)
            trailers = dict(done.trailing_metadata())
            result["large"].append(
                {"same": answer == LARGE, "sum": trailers["x-sum"], "peer": trailers["x-peer"]}
            )
            try:
                unary["Delete"](b"x", timeout=SECONDS)
                result["refused"].append("OK")
            except grpc.RpcError as error:
                result["refused"].append(error.code().name)
        sent.put(None)
        result["left"] = [message.decode() for message in conversation]
        result["code"] = conversation.code().name
        result["peer"] = dict(conversation.trailing_metadata())["x-peer"]
    print(json.dumps(result))


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
