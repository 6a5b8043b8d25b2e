"""Serve the benchmark's endpoint with other software.

    python peers_serving.py bare|fastapi|litserve|mosec|mosec-batch MODEL_DIR PORT

AWS's TorchServe stack uses this file as its inference.py, and Ray Serve runs the application of `ray`.
"""

import json
import os
import sys

import torch
from bodies import tensor

from mlkit.model import load_model

torch.set_num_threads(1)


def predict(model, x):
    """Return the prediction for a batch as nested lists."""
    with torch.inference_mode():
        return model(x).tolist()


def bare(folder, port):
    """Serve with ASGI alone, the least that a Python server has to do."""
    import uvicorn

    model = load_model(folder)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        more_body = True
        while more_body:
            message = await receive()
            body = body + message.get("body", b"")
            more_body = message.get("more_body")
        x = tensor(json.loads(body))
        output = json.dumps(predict(model, x)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(output)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": output})

    uvicorn.run(app, port=port, log_level="error", access_log=False)


def fastapi(folder, port):
    import uvicorn
    from fastapi import FastAPI

    model = load_model(folder)
    app = FastAPI()

    @app.post("/invocations")
    def invocations(body: dict) -> list:
        return predict(model, tensor(body))

    uvicorn.run(app, port=port, log_level="error", access_log=False)


if "litserve" in sys.argv[1:2]:  # LitServe's worker process imports the class from this module
    import litserve as lit

    class Api(lit.LitAPI):
        def setup(self, device):
            self.model = load_model(sys.argv[2])

        def decode_request(self, request):
            return tensor(request)

        def predict(self, x):
            return predict(self.model, x)

        def encode_response(self, output):
            return output


def litserve(folder, port):
    server = lit.LitServer(Api(api_path="/invocations"), accelerator="cpu")
    server.run(port=port, generate_client_file=False, log_level="error", num_api_servers=1)


try:
    import mosec
except ImportError:  # it is installed next to the environment, for its own measurement
    mosec = None
else:

    class MosecWorker(mosec.Worker):
        """Predict a request; mosec decodes and encodes JSON."""

        def __init__(self):
            self.model = load_model(os.environ["MODEL_DIR"])

        def forward(self, data):
            return predict(self.model, tensor(data))

    class MosecBatchWorker(MosecWorker):
        """Predict the requests that wait."""

        def forward(self, data):
            inputs = [tensor(body) for body in data]
            prediction = iter(predict(self.model, torch.cat(inputs)))
            return [[next(prediction) for _ in x] for x in inputs]


def serve_mosec(folder, port):
    sys.argv[1:] = []  # mosec reads it; folder and port are in the environment
    server = mosec.Server()
    server.register_runtime({"/invocations": [mosec.Runtime(MosecWorker)]})
    server.run()


def serve_mosec_batch(folder, port):
    sys.argv[1:] = []
    server = mosec.Server()
    server.register_runtime({"/invocations": [mosec.Runtime(MosecBatchWorker, max_batch_size=32, max_wait_time=1)]})
    server.run()


def model_fn(model_dir):
    return load_model(model_dir)


def input_fn(data, content_type):
    return tensor(json.loads(data))


def predict_fn(data, model):
    return predict(model, data)


def output_fn(prediction, accept):
    return json.dumps(prediction)


def ray():
    """Return the application that Ray Serve runs."""
    from ray import serve

    @serve.deployment(max_ongoing_requests=128)
    class Endpoint:
        def __init__(self):
            self.model = load_model(os.environ["MODEL_DIR"])

        async def __call__(self, request):
            return predict(self.model, tensor(await request.json()))

    return Endpoint.bind()


if __name__ == "__main__":
    name, folder, port = sys.argv[1:]
    servers = {
        "bare": bare,
        "fastapi": fastapi,
        "litserve": litserve,
        "mosec": serve_mosec,
        "mosec-batch": serve_mosec_batch,
    }
    servers[name](folder, int(port))
