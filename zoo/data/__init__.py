"""Labelled examples for the models: where they come from and how they are prepared."""

from zoo.data.loading import LabelledSet, load

__all__ = ["LabelledSet", "load"]
