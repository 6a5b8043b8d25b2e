"""Models for the benchmarks, and for tests/gpu.py."""

import torch
from torch import nn
from torch.nn import functional as F


class MLP(nn.Module):
    """A small network: 10 features, 50 hidden units, 2 classes. With so little arithmetic the server dominates."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 2))

    def forward(self, x):
        return self.layers(x)


def convolution(inputs, outputs, kernel_size, stride):
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two convolutions with a connection around them."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3, 1)
        self.short = convolution(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return (self.second(self.first(x).relu()) + self.short(x)).relu()


class Residual18(nn.Module):
    """ResNet-18 of He et al. (2015), with 11 million parameters.

    x: (batch, 3, 64, 64) float
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks = []
        for inputs, outputs in ((64, 64), (64, 128), (128, 256), (256, 512)):
            blocks.append(Block(inputs, outputs, stride=1 if inputs == outputs else 2))
            blocks.append(Block(outputs, outputs, stride=1))
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 1000)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class TransformerBlock(nn.Module):
    """Attention and two linear layers, each after a norm and with a connection around it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x, mask=None):
        """Return the output, (batch, length, width).

        x: (batch, length, width) float
        mask: (batch, 1, 1, length) bool, False at padding; default: a token attends to those before it
        """
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class SmallGPT(nn.Module):
    """A language model with 4 layers, 128 wide, for sequences of up to 128 tokens: 0.9 million parameters."""

    def __init__(self, vocabulary=256, width=128, layers=4, heads=4, length=128):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))

    def forward(self, x):
        """Return the logits of each next token, (batch, length, vocabulary); x: (batch, length) int64."""
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class SmallBERT(nn.Module):
    """A classifier of texts: BERT's encoder with 2 layers, 128 wide, for up to 128 tokens.

    The vocabulary is small, so that the optimizer takes as small a part of a step as with a large BERT.
    """

    def __init__(self, vocabulary=2048, classes=2, width=128, layers=2, heads=2, length=128):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        """Return the logits, (batch, classes); x: (batch, length) int64, 0 is padding."""
        mask = x != 0
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        return self.head(self.norm(x[:, 0]))


class TokenLoss(nn.CrossEntropyLoss):
    """Cross-entropy of logits, (batch, length, vocabulary), and tokens, (batch, length)."""

    def forward(self, prediction, target):
        return super().forward(prediction.flatten(0, 1), target.flatten())
