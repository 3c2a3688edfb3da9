"""Training: from options to a trained model and its run folder."""

from zoo.training.options import TrainOptions
from zoo.training.trainer import train

__all__ = ["TrainOptions", "train"]
