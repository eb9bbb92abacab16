"""gRPC without TLS, both ends; messages are plain bytes, so no schema is needed.

    grpc_peer.py serve PORT      the service shop.Orders, health and reflection; on the next
                                 port a server that ends its connections when they are old
    grpc_peer.py call ADDRESS    one connection, several streams at once; prints JSON
    grpc_peer.py kinds ADDRESS   every kind of call, and what may become of one
    grpc_peer.py steady ADDRESS  calls one after the other, until the third connection has come
"""

import json
import os
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# What `cargo xtask setup` installs of PyPI.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../target/tools/python"))

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

SERVICE = "shop.Orders"
# Longer than a stream's flow-control window (64 KiB).
LARGE = bytes(range(256)) * 1024
SECONDS = 10
# A proxy set for this machine is none of the lab's; each channel has a connection of its own.
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


def get(request, context):
    """Answers with what was sent; trailers say who asked and how much."""
    context.set_trailing_metadata((("x-peer", context.peer()), ("x-sum", str(len(request)))))
    return request


def chat(requests, context):
    """Answers each message before the next one comes."""
    for request in requests:
        yield request[::-1]
    context.set_trailing_metadata((("x-peer", context.peer()),))


def count(request, context):
    """As many messages as asked for."""
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, context):
    """The sum of all messages."""
    return str(sum(int(request) for request in requests)).encode()


given_up = threading.Semaphore(0)


def wait(request, context):
    """Answers nobody; says when the client has given up."""
    over = threading.Event()
    context.add_callback(over.set)
    over.wait(SECONDS)
    given_up.release()
    return b""


def gave_up(request, context):
    """Waits until a client has given up."""
    return b"yes" if given_up.acquire(timeout=SECONDS) else b"no"


def recovering(request, context):
    """Fails twice."""
    attempts = dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts", "0")
    if int(attempts) < 2:
        context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
    return attempts.encode()


def server(port, options=()):
    one = grpc.server(ThreadPoolExecutor(max_workers=16), options=options)
    handlers = {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "GaveUp": grpc.unary_unary_rpc_method_handler(gave_up),
        "Recovering": grpc.unary_unary_rpc_method_handler(recovering),
        "Delete": grpc.unary_unary_rpc_method_handler(get),
    }
    one.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    healthy = health.HealthServicer()
    healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, one)
    reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), one)
    one.add_insecure_port(f"[::]:{port}")
    one.start()
    return one


def serve(port):
    aged = [("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 5000)]
    servers = [server(int(port) + 1, aged), server(int(port))]
    servers[1].wait_for_termination()


def refused(call, *arguments):
    """Name of the status, and its words."""
    try:
        call(*arguments, timeout=SECONDS)
        return "OK"
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


def call(address):
    with grpc.insecure_channel(address, OPTIONS) as channel:
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
            result["refused"].append(refused(unary["Delete"], b"x"))
        sent.put(None)
        result["left"] = [message.decode() for message in conversation]
        result["code"] = conversation.code().name
        result["peer"] = dict(conversation.trailing_metadata())["x-peer"]
    print(json.dumps(result))


def kinds(address):
    policy = {
        "methodConfig": [
            {
                "name": [{"service": SERVICE, "method": "Recovering"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.05s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
    options = OPTIONS + [("grpc.service_config", json.dumps(policy))]
    with grpc.insecure_channel(address, options) as channel:
        unary = lambda name: channel.unary_unary(f"/{SERVICE}/{name}")
        result = {"get": unary("Get")(b"x", timeout=SECONDS).decode()}
        counted = channel.unary_stream(f"/{SERVICE}/Count")(b"100", timeout=SECONDS)
        result["count"] = len(list(counted))
        numbers = (str(number).encode() for number in range(100))
        result["total"] = channel.stream_unary(f"/{SERVICE}/Total")(
            numbers, timeout=SECONDS
        ).decode()
        # Each kind is refused before the first message.
        result["refused"] = [
            refused(channel.unary_unary(f"/{SERVICE}/Delete"), b"x"),
            refused(lambda *a, **k: list(channel.unary_stream(f"/{SERVICE}/Delete")(*a, **k)), b"x"),
            refused(channel.stream_unary(f"/{SERVICE}/Delete"), iter([LARGE] * 4)),
            refused(
                lambda *a, **k: list(channel.stream_stream(f"/{SERVICE}/Delete")(*a, **k)),
                iter([b"x"]),
            ),
        ]
        # The client's deadline, and its change of mind, reach the server.
        try:
            unary("Wait")(b"", timeout=0.2)
        except grpc.RpcError as error:
            result["deadline"] = error.code().name
        result["deadline heard"] = unary("GaveUp")(b"", timeout=SECONDS).decode()
        waiting = unary("Wait").future(b"", timeout=SECONDS)
        unary("Get")(b"x", timeout=SECONDS)
        waiting.cancel()
        result["cancel heard"] = unary("GaveUp")(b"", timeout=SECONDS).decode()
        result["attempts"] = unary("Recovering")(b"", timeout=SECONDS).decode()
        checked = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=SERVICE), timeout=SECONDS
        )
        result["health"] = health_pb2.HealthCheckResponse.ServingStatus.Name(checked.status)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([asked]), timeout=SECONDS
        )
        listed = next(answers).list_services_response.service
        result["services"] = sorted(service.name for service in listed)
    print(json.dumps(result))


def steady(address):
    result = {"failed": [], "peers": [], "chat": []}
    with grpc.insecure_channel(address, OPTIONS) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Get")
        sent = queue.Queue()
        # Longer than any connection lives.
        conversation = channel.stream_stream(f"/{SERVICE}/Chat")(
            iter(sent.get, None), timeout=SECONDS
        )
        end = time.monotonic() + SECONDS
        while len(result["peers"]) < 3 and time.monotonic() < end:
            try:
                _, done = unary.with_call(b"x", timeout=SECONDS)
                peer = dict(done.trailing_metadata())["x-peer"]
                if peer not in result["peers"]:
                    result["peers"].append(peer)
                    sent.put(b"word")
                    result["chat"].append(next(conversation).decode())
            except grpc.RpcError as error:
                result["failed"].append(str(error))
            time.sleep(0.002)
        sent.put(None)
        list(conversation)
        result["code"] = conversation.code().name
    print(json.dumps(result))


if __name__ == "__main__":
    verbs = {"serve": serve, "call": call, "kinds": kinds, "steady": steady}
    verbs[sys.argv[1]](sys.argv[2])
