"""The same endpoint as one would write it with other software.

    python peers_serving.py bare|fastapi|litserve MODEL_DIR PORT

It is also the file of handlers that AWS's TorchServe stack gets, and has the application that Ray Serve gets.
"""

import json
import os
import sys

import torch
from bodies import tensor

from mlkit.model.saving import load_model

torch.set_num_threads(1)


def answer(model, x):
    with torch.inference_mode():
        return model(x).tolist()


def bare(folder, port):
    """Nothing but ASGI: what any server in Python has to do"""
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
        more = True
        while more:
            message = await receive()
            body = body + message.get("body", b"")
            more = message.get("more_body")
        out = json.dumps(answer(model, tensor(json.loads(body)))).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(out)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": out})

    uvicorn.run(app, port=port, log_level="error", access_log=False)


def fastapi(folder, port):
    import uvicorn
    from fastapi import FastAPI

    model = load_model(folder)
    app = FastAPI()

    @app.post("/invocations")
    def invocations(body: dict) -> list:
        return answer(model, tensor(body))

    uvicorn.run(app, port=port, log_level="error", access_log=False)


if "litserve" in sys.argv[1:2]:  # its worker process looks for the class here
    import litserve as lit

    class Api(lit.LitAPI):
        def setup(self, device):
            self.model = load_model(sys.argv[2])

        def decode_request(self, request):
            return tensor(request)

        def predict(self, x):
            return answer(self.model, x)

        def encode_response(self, output):
            return output


def litserve(folder, port):
    lit.LitServer(Api(api_path="/invocations"), accelerator="cpu").run(
        port=port, generate_client_file=False, log_level="error", num_api_servers=1
    )


def model_fn(model_dir):
    return load_model(model_dir)


def input_fn(data, content_type):
    return tensor(json.loads(data))


def predict_fn(data, model):
    return answer(model, data)


def output_fn(prediction, accept):
    return json.dumps(prediction)


def ray():
    from ray import serve

    @serve.deployment(max_ongoing_requests=128)
    class Endpoint:
        def __init__(self):
            self.model = load_model(os.environ["MODEL_DIR"])

        async def __call__(self, request):
            return answer(self.model, tensor(await request.json()))

    return Endpoint.bind()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
