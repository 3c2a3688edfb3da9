"""How the layers of a model are connected, where a graph says so."""

import collections
from collections.abc import Sequence
from typing import Any

import keras

from keras_norms.surgery.rebuild import Functional, children, own_variables


class Stays(Exception):
    """Why a norm cannot be moved into another layer."""


class Graph:
    """How the layers of all graphs of a model are connected."""

    def __init__(self, parts: Sequence[Any]) -> None:
        graphs = [getattr(part, "_functional", part) for part in parts]
        graphs = list({id(g): g for g in graphs if isinstance(g, Functional)}.values())
        levels = [level for g in graphs for level in g._nodes_by_depth.values()]
        nodes = [node for level in levels for node in level if not node.is_input]
        self._uses = collections.Counter(id(node.operation) for node in nodes)
        self._node = {id(node.operation): node for node in nodes}
        self._outputs = {id(tensor) for g in graphs for tensor in g.outputs}
        self._readers = collections.defaultdict(list)
        for node in nodes:
            for tensor in node.input_tensors:
                self._readers[id(tensor)].append(node.operation)
        # Layers that another one holds, and variables that several hold: tied weights.
        parts = [part for part in parts if not isinstance(part, (Functional, keras.Sequential))]
        self._held = {id(below) for part in parts for below in children(part)}
        self._holders = collections.Counter(id(v) for part in parts for v in own_variables(part))

    def shape(self, layer: keras.Layer) -> tuple[int | None, ...]:
        """The shape of the only input of a norm."""
        if not self._uses[id(layer)]:
            raise Stays("is not in the graph of a model")
        if self._uses[id(layer)] > 1:
            raise Stays("is used more than once")
        return tuple(self._node[id(layer)].input_tensors[0].shape)

    def producer(self, layer: keras.Layer) -> Any:
        """The layer, or other operation, whose output this one reads."""
        return self._node[id(layer)].input_tensors[0]._keras_history.operation

    def before(self, layer: keras.Layer) -> Any:
        """The layer whose output this one reads, if no other does."""
        tensor, operation = self._node[id(layer)].input_tensors[0], self.producer(layer)
        if len(self._readers[id(tensor)]) > 1 or id(tensor) in self._outputs:
            raise Stays(f"the output of {operation.name} is used elsewhere too")
        return self._once(operation)

    def after(self, layer: keras.Layer) -> Any:
        """The layer that reads the output of this one, if it is the only one."""
        (tensor,) = self._node[id(layer)].outputs
        readers = self._readers[id(tensor)]
        if id(tensor) in self._outputs or len(readers) != 1:
            raise Stays("its output has other uses than one layer")
        return self._once(readers[0])

    def _once(self, operation: Any) -> Any:
        if self._uses[id(operation)] > 1:
            raise Stays(f"{operation.name} is used more than once")
        if isinstance(operation, keras.Layer):
            tied = any(self._holders[id(v)] > 1 for v in own_variables(operation))
            if tied or id(operation) in self._held:
                raise Stays(f"another layer may read the weights of {operation.name}")
        return operation
