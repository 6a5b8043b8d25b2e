"""Models for the serving benchmark."""

from torch import nn


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
