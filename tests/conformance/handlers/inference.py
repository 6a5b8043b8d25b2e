"""Four handlers of a user's own, as the conformance test puts them behind each server"""

import json

import torch
from flowers import NAMES

from mlkit.model.saving import load_model
from mlkit.sagemaker.endpoint.codecs import decode, encode


def model_fn(model_dir):
    return load_model(model_dir)


def input_fn(data, content_type):
    found = decode(data.encode() if isinstance(data, str) else data, content_type)
    x = torch.as_tensor(found["inputs"] if isinstance(found, dict) else found, dtype=torch.float32)
    if x.shape[-1] != 4:
        raise ValueError(f"a flower has 4 measures, not {x.shape[-1]}")
    return x.reshape(-1, 4)


def predict_fn(data, model):
    if (data < 0).any():
        raise RuntimeError("/opt/ml/secret: negative")
    with torch.inference_mode():
        return model(data).softmax(1)


def output_fn(prediction, accept, context):
    context.set_response_header(0, "X-Flowers", str(len(prediction)))
    if accept == "text/csv":
        return encode(prediction.round(decimals=4), accept)
    return json.dumps(
        [{"name": NAMES[p.argmax()], "chance": round(p.max().item(), 4)} for p in prediction]
    ), "application/json"
