"""Decode the bodies of the requests in the serving benchmark."""

import base64

import torch


def tensor(body):
    """Return the tensor in a body: a table of numbers, or an RGB image of 64x64 pixels."""
    if "inputs" in body:
        return torch.tensor(body["inputs"])
    pixels = torch.frombuffer(bytearray(base64.b64decode(body["image"])), dtype=torch.uint8)
    return pixels.reshape(1, 3, 64, 64).float() / 255
