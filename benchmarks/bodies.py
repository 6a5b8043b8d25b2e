"""Decode the bodies of the requests in the serving benchmark."""

import torch


def tensor(body):
    """Return the tensor in a body, numbers in nested lists."""
    return torch.tensor(body["inputs"], dtype=torch.float32)
