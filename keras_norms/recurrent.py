"""What normalized recurrent layers share: norms of contributions, gains of kernels, the loop."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
from keras import ops
from keras.src.backend import rnn  # the loop of Keras's own RNN layers has no public name

from keras_norms import programs, registry
from keras_norms.arguments import Initializer, positive
from keras_norms.base import Normalization
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.model_layers import frozen_norms, take_frozen
from keras_norms.moments import Moments, Shape, Tensor, replica_context
from keras_norms.weight import initial_gain, scaled

Norms = list[keras.Layer]
Normalize = Callable[[keras.Layer, Tensor], Tensor]


class NormalizedGates(keras.Layer):
    """What a layer and its cell share: their norms, the gains of their kernels, their equations.

    Every norm sees (batch, time, features), where each step of each sequence is a sample.
    """

    # The letters of the gates, in their order in Keras's kernels. Those of a string are
    # normalized as one vector unless `per_gate`.
    joint_gates: ClassVar[tuple[str, ...]]
    # Whether one more norm sees the cell, a state of which the output is a function.
    has_cell_norm: ClassVar[bool] = False

    def advance(
        self, cell: keras.Layer, x: Tensor, u: Tensor, states: list[Tensor], normalize: Normalize
    ) -> list[Tensor]:
        """The states after one step, of which the first is the output.

        Args:
            cell: the layer that has the activations.
            x: contribution of the input, `(batch, gates * units)`.
            u: contribution of the state, `(batch, gates * units)`.
            states: the states before, each `(batch, units)`.
            normalize: function of a norm and what it normalizes.
        """
        raise NotImplementedError

    def _make_norms(
        self,
        norm: Any,
        per_gate: bool,
        max_steps: int | None = None,
        gamma_initializer: Callable | None = None,
    ) -> None:
        self.norm = registry.get(norm)
        self.per_gate = bool(per_gate)
        if self.norm.needs_spatial_axis:
            known = [name for name in registry.NAMES if not registry.get(name).needs_spatial_axis]
            raise ValueError(
                "A step of a recurrent layer has no spatial axis, which this norm needs. Use one "
                f"of {', '.join(map(repr, known))}. Received: norm={norm!r}"
            )
        if gamma_initializer is None and self.norm.has_batch_statistics:
            gamma_initializer = keras.initializers.Constant(0.1)
        options: dict[str, Any] = {"dtype": self.dtype_policy, "max_steps": max_steps}
        if gamma_initializer is not None:
            options["gamma_initializer"] = gamma_initializer

        def make(contribution: str, vectors: Sequence[str], **more: Any) -> Norms:
            """The norms of a contribution, one for each vector."""
            ends = [f"_{vector}" for vector in vectors] if len(vectors) > 1 else [""]
            names = [f"{self.name}_{contribution}_norm{end}" for end in ends]
            layers = [self._make_norm(contribution, name, options | more) for name in names]
            made = [layer for layer in layers if layer is not None]
            if not self.trainable:
                for layer in made:
                    layer.trainable = False
            return made

        # Without beta, since the gates have a bias.
        self.input_norms = make("input", self._vectors, center=False)
        self.recurrent_norms = make("recurrent", self._vectors, center=False)
        self.cell_norms = make("cell", "c") if self.has_cell_norm else []

    def _make_norm(
        self, contribution: str, name: str, options: dict[str, Any]
    ) -> keras.Layer | None:
        if self.norm.is_identity:
            return None
        weight_norm = self.norm.weight_norm
        if weight_norm is None:
            return self.norm.normalize(name, batch_axis=(0, 1), **options)
        if not weight_norm["mean_only_batch_norm"] or contribution == "cell":
            return None
        names = "momentum", "synchronized", "ghost_batch_size"
        options = {key: options[key] for key in ("dtype", "max_steps")}
        options |= {key: weight_norm[key] for key in names if key in weight_norm}
        return MeanOnlyBatchNormalization(center=False, batch_axis=(0, 1), name=name, **options)

    def _build_norms(self, cell: keras.Layer) -> None:
        of_each = self.input_norms, self.recurrent_norms, self.cell_norms
        for norms, vectors in zip(of_each, (self._vectors, self._vectors, "c"), strict=True):
            for norm, vector in zip(norms, vectors, strict=False):  # there may be no norms
                norm.build((None, None, len(vector) * cell.units))

        weight_norm = self.norm.weight_norm
        for name, gain in (("kernel", "gain"), ("recurrent_kernel", "recurrent_gain")):
            weight = None
            if weight_norm is not None and name in (weight_norm.get("kernels") or [name]):
                kernel = getattr(cell, name)
                weight = self.add_weight(
                    name=gain,
                    shape=(kernel.shape[-1],),
                    initializer=functools.partial(initial_gain, kernel, (-1,)),
                    autocast=False,
                )
            setattr(self, gain, weight)

    @property
    def _vectors(self) -> tuple[str, ...]:
        """The gates that each norm of a contribution normalizes."""
        return tuple("".join(self.joint_gates)) if self.per_gate else self.joint_gates

    def _contributions(
        self, cell: keras.Layer, x: Tensor, h: Tensor, training: bool | None
    ) -> list[Callable[[Tensor, Normalize], Tensor]]:
        """The functions from inputs and from the state to their contributions to the gates.

        `x` and `h` are those of one step; masks of dropout get their shapes.
        """
        masks, biases = [None, None], [None, None]
        if training:
            masks = [cell.get_dropout_mask(x), cell.get_recurrent_dropout_mask(h)]
        if cell.bias is not None:
            bias = ops.cast(cell.bias, self.compute_dtype)
            # Keras's LSTM has one bias for both contributions, its GRU a row for each.
            biases = [bias, None] if len(bias.shape) == 1 else [bias[0], bias[1]]

        def contribution(kernel: Tensor, gain: Any, norms: Norms, masks: Any, bias: Any) -> Any:
            used = kernel if gain is None else scaled(kernel, gain, (-1,))
            used = ops.cast(used, self.compute_dtype)

            def contribute(x: Tensor, normalize: Normalize) -> Tensor:
                y = self._normalize_each(norms, _project(x, used, masks), normalize)
                return y if bias is None else y + bias

            return contribute

        kernels, gains = (cell.kernel, cell.recurrent_kernel), (self.gain, self.recurrent_gain)
        norms = self.input_norms, self.recurrent_norms
        return list(map(contribution, kernels, gains, norms, masks, biases))

    def _normalize_each(self, norms: Norms, x: Tensor, normalize: Normalize) -> Tensor:
        """Normalizes each vector of gates in `x` by its own norm."""
        if len(norms) < 2:
            return normalize(norms[0], x) if norms else x
        sizes = [len(vector) * self.units for vector in self._vectors]
        parts = ops.split(x, list(itertools.accumulate(sizes))[:-1], axis=-1)
        parts = [normalize(norm, part) for norm, part in zip(norms, parts, strict=True)]
        return ops.concatenate(parts, -1)

    def _norm_config(self) -> dict[str, Any]:
        spec = self.norm.spec
        if not isinstance(spec, (str, dict)):
            layer = self.norm.normalize("norm", dtype=self.dtype_policy)
            spec = keras.saving.serialize_keras_object(layer)
        return {"norm": spec, "per_gate": self.per_gate, **frozen_norms(self._all_norms)}

    @property
    def _all_norms(self) -> Norms:
        return [*self.input_norms, *self.recurrent_norms, *self.cell_norms]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NormalizedGates":
        config = dict(config)
        frozen = take_frozen(config)
        layer = super().from_config(config)
        if frozen:
            for norm in layer._all_norms:
                norm.trainable = False
        return layer


class NormalizedCell(NormalizedGates):
    """Base of the cells: one step, by a norm without batch statistics."""

    def __init__(
        self, units: int, *args: Any, norm: Any = "ln", per_gate: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self._make_norms(norm, per_gate)
        if self.norm.has_batch_statistics:
            raise ValueError(
                "A cell cannot keep moving statistics: they must be updated outside of the loop "
                f"over time. Use {type(self).__name__.removesuffix('Cell')}. "
                f"Received: norm={norm!r}"
            )

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._build_norms(self)

    def call(
        self, inputs: Tensor, states: Any, training: bool | None = False
    ) -> tuple[Tensor, Any]:
        if self.norm.is_identity:
            return super().call(inputs, states, training)
        nested = keras.tree.is_nested(states)
        states = list(states) if nested else [states]
        of_input, of_state = self._contributions(self, inputs, states[0], training)

        def normalize(norm: keras.Layer, x: Tensor) -> Tensor:
            outputs, _ = _call_norm(norm, ops.expand_dims(x, 1), training, None, 0)
            return ops.squeeze(outputs, 1)

        x, u = of_input(inputs, normalize), of_state(states[0], normalize)
        states = self.advance(self, x, u, states, normalize)
        return states[0], states if nested else states[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._norm_config()}


class NormalizedLoop(NormalizedGates):
    """Base of the layers: a loop over time, where steps may have batch statistics of their own."""

    def __init__(
        self,
        units: int,
        *args: Any,
        norm: Any = "ln",
        per_gate: bool = False,
        max_steps: int = 100,
        gamma_initializer: Initializer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self.max_steps = positive("max_steps", max_steps)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self._make_norms(norm, per_gate, max_steps, self.gamma_initializer)
        if not self.norm.is_identity:
            self.supports_jit = True  # this loop never uses cuDNN, which XLA cannot compile
            self.use_cudnn = False  # Keras's Bidirectional would use it without asking this loop

    def build(self, sequences_shape: Shape, initial_state_shape: Any = None) -> None:
        super().build(sequences_shape)
        self._build_norms(self.cell)
        counts = self.stateful and self.norm.has_batch_statistics
        if counts and len(self.states) == len(self.state_size):
            # A state, since Keras resets states and does not save them.
            step = keras.Variable(
                0.0, dtype="float32", trainable=False, autocast=False, name="next_step"
            )
            self.states.append(step)

    @property
    def loop_norms(self) -> Norms:
        """The norms inside of the loop over time, whose inputs depend on the steps before."""
        return [*self.recurrent_norms, *self.cell_norms]

    def inner_loop(
        self,
        sequences: Tensor,
        initial_state: Sequence[Tensor],
        mask: Any,
        training: bool | None = False,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        if self.norm.is_identity:
            return super().inner_loop(sequences, initial_state, mask, training)
        self._refuse_replicas_in_loop(training)
        cell, size = self.cell, len(self.state_size)
        # A copy, since PyTorch writes into the states before their gradient is computed.
        initial = [ops.copy(state) if self.stateful else state for state in initial_state[:size]]
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        # Keras does not cast where the layer is called by `stateless_call`.
        sequences = ops.cast(sequences, self.compute_dtype)
        if mask is not None:
            # Padding may hold NaN, and in the gradients 0 * NaN is NaN.
            sequences = ops.where(ops.cast(mask, "bool")[..., None], sequences, 0)
        if self.go_backwards:
            sequences = ops.flip(sequences, 1)
            mask = None if mask is None else ops.flip(mask, 1)
        next_step = self.states[size] if len(self.states or ()) > size else None
        first = 0 if next_step is None else ops.cast(next_step, "int32")
        of_input, of_state = self._contributions(cell, sequences[:, 0], initial[0], training)

        def normalize_all(norm: keras.Layer, x: Tensor) -> Tensor:
            y, batch = _call_norm(norm, x, training, mask, first)
            if batch is not None:
                norm.update_moving(batch, first)
            return y

        updated: Norms = []  # the norms whose moving statistics each step updates
        at_once = self.inputs_at_once()
        x = of_input(sequences, normalize_all) if at_once else sequences
        if mask is not None:
            # The loop gets the mask as one more feature. Given as a mask, it would also be
            # applied to the moments of the batch, which are outputs of the loop.
            x = ops.concatenate([x, ops.cast(mask, x.dtype)[..., None]], -1)

        def step(inputs: Tensor, states: Sequence[Tensor]) -> tuple[list, list]:
            before, (index, *previous) = list(states[:size]), states[size:]
            valid, batches = None, []
            updated.clear()
            if mask is not None:
                inputs, valid = inputs[:, :-1], inputs[:, -1:] > 0

            def normalize(norm: keras.Layer, x: Tensor) -> Tensor:
                # Not x[:, None], whose gradient is a slower one.
                x = ops.expand_dims(x, 1)
                y, batch = _call_norm(norm, x, training, valid, index)
                if batch is not None:
                    parts = [ops.broadcast_to(part, ops.shape(batch.mean)) for part in batch]
                    batches.append(ops.concatenate(parts, 1))
                    updated.append(norm)
                return ops.squeeze(y, 1)

            x = inputs if at_once else of_input(inputs, normalize)
            u = of_state(before[0], normalize)
            after = self.advance(cell, x, u, before, normalize)
            output = after[0]
            if valid is not None:
                pairs = zip(after, before, strict=True)
                after = [ops.where(valid, new, old) for new, old in pairs]
                missing = ops.zeros_like(output) if self.zero_output_for_mask else previous[0]
                output = ops.where(valid, output, missing)
                previous = [output]
            return [output, *batches], [*after, index + 1, *previous]

        states = [*initial, ops.convert_to_tensor(first, "int32")]
        if mask is not None:
            states.append(ops.zeros_like(initial[0]))
        (outputs, *batches), states = _loop(step, x, states, self.unroll)
        for norm, batch in zip(updated, batches, strict=True):
            norm.update_moving(Moments(*(batch[:, :, i] for i in range(3))), first)
        if next_step is not None:
            next_step.assign(states[size])
        return outputs[:, -1], outputs, list(states[:size])

    def inputs_at_once(self) -> bool:
        """Whether the input's contributions are computed for all steps at once, before the loop.

        They do not depend on the state, so that they are one product. On CPUs they do not fit the
        caches, and are faster step by step. But replicas cannot communicate in a loop, and in
        half precision its sums of gradients would be coarse.
        """
        precise = self.compute_dtype in ("float32", "float64")
        synchronized = any(getattr(norm, "synchronized", False) for norm in self.input_norms)
        return synchronized or not precise or not programs.on_cpus()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self._norm_config(),
            "max_steps": self.max_steps,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }

    def _refuse_replicas_in_loop(self, training: bool | None) -> None:
        if self.unroll or replica_context() is None:
            return
        synchronized = [norm for norm in self.loop_norms if getattr(norm, "synchronized", False)]
        if any(norm.updates_moving(training) for norm in synchronized):
            raise ValueError(
                "Statistics inside of the loop over time cannot be synchronized over replicas. "
                f"Use unroll=True, or a norm without synchronized=True. Received: {self.norm.spec}"
            )


def _project(x: Tensor, kernel: Tensor, masks: Any) -> Tensor:
    """`x @ kernel` under dropout, whose mask is the same at all steps.

    Args:
        x: of shape `(batch, features)` or `(batch, time, features)`.
        kernel: of shape `(features, gates * units)`.
        masks: None, a mask of shape `(batch, features)`, or a list of one for each gate.
    """
    if masks is None:
        return ops.matmul(x, kernel)

    def drop(mask: Tensor) -> Tensor:
        return x * (mask if len(x.shape) == 2 else mask[:, None])

    if not isinstance(masks, list):
        return ops.matmul(drop(masks), kernel)
    parts = zip(masks, ops.split(kernel, len(masks), axis=1), strict=True)
    return ops.concatenate([ops.matmul(drop(mask), part) for mask, part in parts], -1)


def _call_norm(
    norm: keras.Layer, x: Tensor, training: bool | None, mask: Tensor | None, first_step: Any
) -> tuple[Tensor, Moments | None]:
    """`Normalization.normalize`, and the same for Keras's norms, which lack this method."""
    if isinstance(norm, Normalization):
        return norm.normalize(x, training, mask, first_step)
    return norm(x), None


def _loop(
    step: Callable, x: Tensor, states: list[Tensor], unroll: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Runs `step` over the time steps of `x`.

    Returns:
        The outputs of all steps, each of shape `(batch, time, ...)`, and the last states.
    """
    if not unroll and keras.config.backend() != "torch":
        _, outputs, states = rnn(step, x, states)
        return outputs, states
    steps = []
    for t in range(x.shape[1]):
        outputs, states = step(x[:, t], states)
        steps.append(outputs)
    return [ops.stack(parts, 1) for parts in zip(*steps, strict=True)], states
