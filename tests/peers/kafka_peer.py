"""Kafka as two real client libraries speak it, against librdkafka's mock cluster.

serve PORT: a broker on a port of both families. Of clients at ADDRESS:PORT, told as JSON: run, a
round of what the libraries do; others, the same of kcat, and what a transaction is refused with;
transaction, one, and its error; hand, what needs no library. The mock cluster lives on a port of
its own loopback and tells clients to come there, so both sides put a relay in between that moves
bytes and nothing else.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

# What `cargo xtask setup` installs of PyPI.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../target/tools/python"))

import confluent_kafka
import kafka
import kafka.errors


def relay(listener, target):
    """Moves bytes between whoever connects and the target."""

    def copy(source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()

    def accept():
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(target)
            except OSError:
                client.close()
                continue
            for pair in ((client, server), (server, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def serve(port):
    broker = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    (own,) = broker.list_topics(timeout=10).brokers.values()
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    relay(listener, ("127.0.0.1", own.port))
    threading.Event().wait()


def asked(connection, key, version, correlation, body):
    """One request, by hand; the body of its response."""
    head = struct.pack(">hhih", key, version, correlation, 2) + b"me"
    connection.sendall(struct.pack(">i", len(head + body)) + head + body)
    return answer(connection, correlation)


def answer(connection, correlation):
    def take(count):
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            assert more, "cut off"
            data += more
        return data

    (length,) = struct.unpack(">i", take(4))
    response = take(length)
    assert struct.unpack(">i", response[:4]) == (correlation,), response
    return response[4:]


def advertised(target):
    """The port the broker tells clients to come to (Metadata v1, no topics)."""
    with socket.create_connection(target, timeout=10) as connection:
        body = asked(connection, 3, 1, 5, struct.pack(">i", 0))
    count, _, host = struct.unpack(">iih", body[:10])
    assert count == 1, body
    return struct.unpack(">i", body[10 + host : 14 + host])[0]


def one_connection(target):
    """Errors of Metadata v1 about topics, asked all at once, then of an operator's request,
    all on one connection."""
    topics = [b"orders", b"secret", b"orders", b"secret"]
    with socket.create_connection(target, timeout=10) as connection:
        said = b""
        for number, topic in enumerate(topics):
            body = struct.pack(">ih", 1, len(topic)) + topic
            head = struct.pack(">hhih", 3, 1, number, 2) + b"me"
            said += struct.pack(">i", len(head + body)) + head + body
        connection.sendall(said)
        errors = []
        for number, topic in enumerate(topics):
            body = answer(connection, number)
            at = body.index(struct.pack(">h", len(topic)) + topic)
            errors.append(struct.unpack(">h", body[at - 2 : at])[0])
        # An operator's request (CreateTopics v2): the code for its one topic.
        body = struct.pack(">ih4sihii", 1, 4, b"mine", 1, 1, 0, 0) + struct.pack(">i?", 1000, False)
        said = asked(connection, 19, 2, 9, body)
        errors.append(struct.unpack(">h", said[14:16])[0])
        return errors


def many(target):
    """More at once than anybody sends: 4,000 requests of 16 bytes that no rule with a topic
    covers, then Metadata of 20,000 topics; the errors, each once."""
    count = 4000
    with socket.create_connection(target, timeout=20) as connection:
        # InitProducerId v0 without a transaction's name.
        empty = b"".join(
            struct.pack(">ihhihhi", 16, 22, 0, number, -1, -1, 1000) for number in range(count)
        )
        threading.Thread(target=connection.sendall, args=(empty,), daemon=True).start()
        small = {struct.unpack(">h", answer(connection, number)[4:6])[0] for number in range(count)}
        topics = [b"t%06d" % number for number in range(20000)]
        body = struct.pack(">i", len(topics)) + b"".join(
            struct.pack(">h", len(topic)) + topic for topic in topics
        )
        body = asked(connection, 3, 1, 7, body)
        ends = [body.index(struct.pack(">h", 7) + topic) for topic in (topics[0], topics[-1])]
        large = {struct.unpack(">h", body[at - 2 : at])[0] for at in ends}
    return [sorted(small), sorted(large)]


def librdkafka(bootstrap):
    usual = {"bootstrap.servers": bootstrap, "topic.metadata.refresh.interval.ms": -1}
    producer = confluent_kafka.Producer({**usual, "message.timeout.ms": 10000})
    told = []

    def produce(topic, value):
        producer.produce(topic, value, callback=lambda error, _: told.append(error and error.name()))
        producer.flush(12)
        return told.pop() if told else "no word"

    found = {"produced": [produce("orders", "one"), produce("secret", "two"), produce("orders", "three")]}

    def consume(topic, wanted, in_group):
        settings = {"group.id": "readers", "auto.offset.reset": "earliest", **usual}
        consumer = confluent_kafka.Consumer(settings)
        if in_group:
            consumer.subscribe([topic])
        else:
            consumer.assign([confluent_kafka.TopicPartition(topic, 0)])
        got, until = [], time.monotonic() + 12
        while len(got) < wanted and time.monotonic() < until:
            message = consumer.poll(1)
            if message is not None:
                error = message.error()
                got.append(error.name() if error else message.value().decode())
        consumer.commit(asynchronous=False) if in_group else None
        consumer.close()
        return got

    found["consumed"] = sorted(consume("orders", 2, True))
    found["not consumed"] = consume("secret", 1, False)
    return found


def kcat(bootstrap):
    """Sends and reads with kcat, which brings a librdkafka of Debian's."""

    def run(*arguments, said=None):
        command = ["kcat", "-b", bootstrap, "-X", "message.timeout.ms=8000", *arguments]
        return subprocess.run(command, input=said, capture_output=True, text=True, timeout=20)

    sent = run("-P", "-t", "orders", said="five\n").returncode
    read = run("-C", "-t", "orders", "-o", "beginning", "-e", "-q").stdout.split()
    refused = run("-P", "-t", "secret", said="six\n").stderr
    return [sent, "five" in read, "Topic authorization failed" in refused]


def refused(call):
    """The name of what went wrong, if anything."""
    try:
        call()
        return None
    except confluent_kafka.KafkaException as error:
        return error.args[0].name()


def transaction(bootstrap):
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "transactional.id": "t"})
    producer.init_transactions(8)
    producer.begin_transaction()
    producer.produce("orders", "seven")
    producer.commit_transaction(8)


def pure_python(bootstrap):
    # The mock cluster's answers to the questions of newer ones are no good to it.
    usual = {"bootstrap_servers": bootstrap, "api_version": (2, 0)}
    producer = kafka.KafkaProducer(**usual, max_block_ms=8000)

    def produce(topic):
        try:
            producer.send(topic, b"four").get(timeout=10)
            return None
        except Exception as error:  # What it is, is what is told.
            return type(error).__name__

    found = {"produced": [produce("orders"), produce("secret"), produce("orders")]}
    producer.close(timeout=5)
    consumer = kafka.KafkaConsumer(
        "orders", auto_offset_reset="earliest", consumer_timeout_ms=8000, **usual
    )
    found["consumed"] = sorted(next(consumer).value.decode() for _ in range(4))
    consumer.close()
    return found


def reached(target):
    """A relay to a broker, where it tells clients to come."""
    address, _, port = target.rpartition(":")
    target = (address.strip("[]"), int(port))
    own = advertised(target)
    relay(socket.create_server(("127.0.0.1", own)), target)
    return target, f"127.0.0.1:{own}"


def run(target):
    target, bootstrap = reached(target)
    found = {"by hand": one_connection(target)}
    took = [time.monotonic()]
    found["librdkafka"] = librdkafka(bootstrap)
    took.append(time.monotonic())
    found["kafka-python"] = pure_python(bootstrap)
    took.append(time.monotonic())
    print("seconds:", [after - before for before, after in zip(took, took[1:])], file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    verb, what = sys.argv[1:]
    if verb == "serve":
        serve(int(what))
    elif verb == "others":
        _, bootstrap = reached(what)
        print(json.dumps({"kcat": kcat(bootstrap), "transaction": refused(lambda: transaction(bootstrap))}))
    elif verb == "transaction":
        _, bootstrap = reached(what)
        print(json.dumps(refused(lambda: transaction(bootstrap))))
    elif verb == "hand":
        address, _, port = what.rpartition(":")
        target = (address.strip("[]"), int(port))
        print(json.dumps({"by hand": one_connection(target), "many": many(target)}))
    else:
        run(what)
