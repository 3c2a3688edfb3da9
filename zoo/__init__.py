"""Models with a `norm=` argument."""

from zoo.convnet import convnet
from zoo.lstm import lstm
from zoo.mlp import mlp
from zoo.resnet import resnet
from zoo.transformer import transformer

__all__ = ["convnet", "lstm", "mlp", "resnet", "transformer"]
