"""Models with a `norm=` argument."""

from zoo.resnet import resnet

__all__ = ["resnet"]
