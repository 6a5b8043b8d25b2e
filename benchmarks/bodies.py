"""What the servers are asked"""

import base64

import torch


def tensor(body):
    """What a body asks about: a table of numbers, or the bytes of an image, 64x64 RGB"""
    if "inputs" in body:
        return torch.tensor(body["inputs"])
    return (
        torch.frombuffer(bytearray(base64.b64decode(body["image"])), dtype=torch.uint8).reshape(1, 3, 64, 64).float()
        / 255
    )
