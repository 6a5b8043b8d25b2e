"""A TCP proxy before an HTTP server that throttles, drops and delays a part of the requests."""

import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress

THROTTLED = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
)
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
THROTTLED %= (len(SLOW_DOWN), SLOW_DOWN)
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class FaultyProxy:
    """Forward requests to a port of this machine, and let a share of them fail, at most `in_a_row` one after another.

    kinds: "throttle" (503 SlowDown, or 429), "drop the request" and "drop the reply" (the connection is reset in the
    middle of the body), "delay" (no reply until the client gives up). `counts` has how often each has happened.
    """

    def __init__(self, port, kinds, share, in_a_row=2, seed=0):
        self.upstream = port
        self.kinds = kinds
        self.share = share
        self.in_a_row = in_a_row
        self.random = random.Random(seed)
        self.counts = Counter()
        self.n_in_a_row = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)  # ends accept
        self.listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _choose(self):
        """Return the fault of the next request, or None."""
        with self.lock:
            kind = None
            if self.random.random() < self.share and self.n_in_a_row < self.in_a_row:
                kind = self.random.choice(self.kinds)
                self.counts[kind] += 1
            self.n_in_a_row = self.n_in_a_row + 1 if kind else 0
            return kind

    def _serve(self, client):
        """Serve one request; then the connection is closed."""
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            kind = self._choose()
            if kind == "delay":
                client.recv(2**20)
                while client.recv(2**20):  # until the client closes the connection
                    time.sleep(0.01)
                return
            if kind == "drop the request":
                reset(client)
                return
            if kind == "throttle":
                client.sendall(self.random.choice([THROTTLED, TOO_MANY]))
                client.shutdown(socket.SHUT_WR)
                while client.recv(2**20):
                    pass
                return
            self._forward(client, head, kind)

    def _forward(self, client, head, kind):
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            line, _, rest = head.partition(b"\r\n")
            server.sendall(line + b"\r\nConnection: close\r\n" + rest)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    data = client.recv(65536)
                    if not data:
                        return
                    server.sendall(data)
                if server in ready:
                    data = server.recv(65536)
                    if not data:
                        return
                    is_continue = data.startswith(b"HTTP/1.1 100")  # the client sends the body only now
                    if kind == "drop the reply" and not is_continue:
                        client.sendall(data[: len(data) // 2])
                        reset(client)
                        return
                    client.sendall(data)


def reset(connection):
    """Let the connection end with a reset, as that of a host that has gone away."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
