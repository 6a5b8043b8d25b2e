"""Handlers as a user writes them. The conformance test serves them with each server."""

import json

import torch
from flowers import NAMES

from mlkit.model import load_model
from mlkit.sagemaker.endpoint.codecs import decode, encode


def model_fn(model_dir):
    return load_model(model_dir)


def input_fn(data, content_type):
    value = decode(data.encode() if isinstance(data, str) else data, content_type)
    x = torch.as_tensor(value["inputs"] if isinstance(value, dict) else value, dtype=torch.float32)
    if x.shape[-1] != 4:
        raise ValueError(f"expected 4 measures of a flower, got {x.shape[-1]}")
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
    flowers = [{"name": NAMES[p.argmax()], "probability": round(p.max().item(), 4)} for p in prediction]
    return json.dumps(flowers), "application/json"
