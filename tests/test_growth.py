"""Nothing is kept of a step or a request that is over: the number of objects does not grow with them.

benchmarks/long_run.py measures the memory of a million steps and requests.
"""

import gc
import http.client
import json

import torch
from conformance.servers import mlkit_serve, wait_until
from helpers import free_port
from torch.utils.data import DataLoader, TensorDataset

from mlkit.model import MyCustomModel
from mlkit.model.saving import save_model
from mlkit.training import train_model
from mlkit.training.callbacks import EMA, ClipGradients, cosine

HANDLERS = """
import gc

def predict_fn(data, model):
    gc.collect()
    return len(gc.get_objects())
"""


class CountObjects:
    """A callback that counts the objects of the process after each epoch."""

    def __init__(self):
        self.counts = []

    def after_epoch(self, trainer):
        gc.collect()
        self.counts.append(len(gc.get_objects()))


def test_objects_do_not_grow_with_steps():
    x = torch.randn(4 * 100, 10)
    loader = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=4)
    count = CountObjects()
    train_model(
        MyCustomModel(10, 8, 2),
        loader,
        epochs=4,
        learning_rate=1e-3,
        callbacks=[ClipGradients(1.0), EMA(), cosine(), count],
        verbose=False,
    )
    growth = count.counts[-1] - count.counts[1]
    assert growth < 100, f"{growth} objects more after 200 steps"


def test_objects_do_not_grow_with_requests(tmp_path):
    save_model(MyCustomModel(4, 8, 2), tmp_path / "model", sample=torch.zeros(1, 4))
    (tmp_path / "model" / "code").mkdir()
    (tmp_path / "model" / "code" / "inference.py").write_text(HANDLERS)
    port = free_port()

    def send(method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except OSError:
            return None, b""
        finally:
            connection.close()

    def count_objects():
        status, body = send("POST", "/invocations", "[[1, 2, 3, 4]]")
        assert status == 200, body
        return json.loads(body)

    def send_requests():
        for _ in range(40):
            assert send("POST", "/invocations", "[[1, 2, 3")[0] == 400
            assert send("GET", "/unknown")[0] == 404
            assert send("GET", "/ping")[0] == 200
        assert send("GET", "/metrics")[0] == 200  # which makes a counter for each status when it is first seen
        count_objects()

    with mlkit_serve(tmp_path / "model", port) as server:
        wait_until(lambda: send("GET", "/ping")[0] == 200, server)
        send_requests()
        before = count_objects()
        send_requests()
        growth = count_objects() - before
    assert growth < 30, f"{growth} objects more after 120 requests"
