"""What surgery did to each layer."""

from typing import Any, NamedTuple

from keras_norms.output import markdown_table


class Change(NamedTuple):
    """What was done to one layer.

    Attributes:
        path: where the layer is in the model.
        before: what it was.
        after: what stands there now; None if it was left.
        note: what follows from that, or why it was left.
    """

    path: str
    before: str
    after: str | None
    note: str


class Report(list[Change]):
    """What was done to each layer. Printed, it is a table.

    Example:
        >>> from keras_norms.surgery.report import Change, Report
        >>> print(Report([Change("norm", "BatchNormalization", None, "not selected")]))
        | layer | before | after | note |
        | --- | --- | --- | --- |
        | norm | BatchNormalization | left | not selected |
    """

    @property
    def changed(self) -> "Report":
        """The layers that are not what they were."""
        return Report(each for each in self if each.after is not None)

    @property
    def left(self) -> "Report":
        """The layers that were left as they were."""
        return Report(each for each in self if each.after is None)

    def __str__(self) -> str:
        lines = (each._replace(after=each.after or "left") for each in self)
        return markdown_table(("layer", "before", "after", "note"), lines)


def title(layer: Any) -> str:
    """The name of a layer's class, and whether it is Keras's."""
    cls = type(layer)
    return f"keras.layers.{cls.__name__}" if cls.__module__.startswith("keras.") else cls.__name__
