"""A network of one's own, as somebody who has never heard of kdbench would write it."""

import torch.nn.functional as F
from torch import nn


def block(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Pyramid(nn.Module):
    def __init__(self, classes, width=16):
        super().__init__()
        self.stem = block(3, width, stride=2)
        self.stage4 = block(width, 2 * width, stride=2)
        self.stage8 = block(2 * width, 3 * width, stride=2)
        self.stage16 = block(3 * width, 4 * width, stride=2)
        self.fine = nn.Conv2d(2 * width, classes, 1)
        self.coarse = nn.Conv2d(4 * width, classes, 1)

    def forward(self, image):
        fine = self.stage4(self.stem(image))
        coarse = self.coarse(self.stage16(self.stage8(fine)))
        return {"out": self.fine(fine) + F.interpolate(coarse, size=fine.shape[2:], mode="nearest")}


def pyramid(classes, width=16):
    return Pyramid(classes, width)
