"""The models that the servers are measured with"""

from torch import nn


class MLP(nn.Module):
    """10 features, 50 hidden, 2 classes: next to no arithmetic, so what is measured is the server"""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 2))

    def forward(self, x):
        return self.layers(x)


class Block(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()

        def conv(a, b, k, s):
            return nn.Sequential(nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b))

        self.first = conv(a, b, 3, stride)
        self.second = conv(b, b, 3, 1)
        self.short = conv(a, b, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return (self.second(self.first(x).relu()) + self.short(x)).relu()


class Residual18(nn.Module):
    """18 layers and 11 million parameters as He et al. (2015) have them in ResNet-18; images 3x64x64"""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = [64, 64, 128, 256, 512]
        self.body = nn.Sequential(
            *(
                Block(a if i == 0 else b, b, 2 if i == 0 and b > 64 else 1)
                for a, b in zip(widths, widths[1:])
                for i in (0, 1)
            )
        )
        self.head = nn.Linear(512, 1000)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))
