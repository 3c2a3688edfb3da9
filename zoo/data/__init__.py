"""Labelled examples for the models: where they come from and how they are prepared."""

from zoo.data.labelled import LabelledSet
from zoo.data.loading import load

__all__ = ["LabelledSet", "load"]
