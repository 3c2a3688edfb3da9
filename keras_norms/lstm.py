"""LSTM that normalizes each contribution to its gates on its own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, ops
from keras.src.backend import rnn  # the loop of Keras's own RNN layers has no public name

from keras_norms import registry
from keras_norms.arguments import Initializer, positive
from keras_norms.base import Normalization, register
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.moments import Moments, Shape, Tensor, replica_context
from keras_norms.weight import initial_gain, scaled

_GATES = ("i", "f", "c", "o")  # their order in Keras's kernels
Norms = list[keras.Layer]
Normalize = Callable[[keras.Layer, Tensor], Tensor]


class _NormalizedGates(keras.Layer):
    """What the layer and the cell share: the norms of an LSTM, and the gains of its kernels.

    Every norm sees (batch, time, features), where each step of each sequence is a sample.
    """

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
                "A step of an LSTM has no spatial axis, which this norm needs. Use one of "
                f"{', '.join(map(repr, known))}. Received: norm={norm!r}"
            )
        if gamma_initializer is None and self.norm.has_batch_statistics:
            gamma_initializer = keras.initializers.Constant(0.1)
        options: dict[str, Any] = {"dtype": self.dtype_policy, "max_steps": max_steps}
        if gamma_initializer is not None:
            options["gamma_initializer"] = gamma_initializer

        def make(contribution: str, ends: Sequence[str] = ("",), **more: Any) -> Norms:
            """The norms of a contribution, one for each end of a name."""
            names = [f"{self.name}_{contribution}_norm{end}" for end in ends]
            layers = [self._make_norm(contribution, name, options | more) for name in names]
            made = [layer for layer in layers if layer is not None]
            if not self.trainable:
                for layer in made:
                    layer.trainable = False
            return made

        gates = [f"_{gate}" for gate in _GATES] if self.per_gate else [""]
        # Without beta, since the gates have a bias.
        self.input_norms = make("input", gates, center=False)
        self.recurrent_norms = make("recurrent", gates, center=False)
        self.cell_norms = make("cell")

    def _make_norm(
        self, contribution: str, name: str, options: dict[str, Any]
    ) -> keras.Layer | None:
        if self.norm.is_identity:
            return None
        weight_norm = self.norm.weight_norm
        if weight_norm is None:
            return self.norm.normalize(name, batch_axis=(0, 1), **options)
        if weight_norm["mean_only_batch_norm"] and contribution != "cell":
            return MeanOnlyBatchNormalization(
                momentum=weight_norm["momentum"],
                center=False,
                synchronized=weight_norm.get("synchronized", False),
                ghost_batch_size=weight_norm.get("ghost_batch_size"),
                batch_axis=(0, 1),
                max_steps=options["max_steps"],
                dtype=options["dtype"],
                name=name,
            )
        return None

    def _build_norms(self, cell: keras.Layer) -> None:
        for norms, size in (
            (self.input_norms, 4 * cell.units),
            (self.recurrent_norms, 4 * cell.units),
            (self.cell_norms, cell.units),
        ):
            for norm in norms:
                norm.build((None, None, size // len(norms)))

        for name, gain in (("kernel", "gain"), ("recurrent_kernel", "recurrent_gain")):
            setattr(self, gain, None)
            if self.norm.weight_norm is not None:
                chosen = self.norm.weight_norm.get("kernels")
                if chosen is None or name in chosen:
                    kernel = getattr(cell, name)
                    weight = self.add_weight(
                        name=gain,
                        shape=(4 * cell.units,),
                        initializer=functools.partial(initial_gain, kernel, (-1,)),
                        autocast=False,
                    )
                    setattr(self, gain, weight)

    def _kernels(self, cell: keras.Layer) -> list[Tensor]:
        """The two kernels to compute with: `gain * v / ||v||` under weight normalization."""
        kernels = []
        for kernel, gain in (
            (cell.kernel, self.gain),
            (cell.recurrent_kernel, self.recurrent_gain),
        ):
            used = kernel if gain is None else scaled(kernel, gain, (-1,))
            kernels.append(ops.cast(used, self.compute_dtype))
        return kernels

    def _norm_config(self) -> dict[str, Any]:
        spec = self.norm.spec
        if not isinstance(spec, (str, dict)):
            layer = self.norm.normalize("norm", dtype=self.dtype_policy)
            spec = keras.saving.serialize_keras_object(layer)
        return {"norm": spec, "per_gate": self.per_gate}


@register
class NormalizedLSTMCell(_NormalizedGates, layers.LSTMCell):
    """One step of `NormalizedLSTM`, for `keras.layers.RNN`. Its norm has no batch statistics.

    Args:
        units: int, the size of the state.
        *args: further arguments of `keras.layers.LSTMCell`.
        norm: what `keras_norms.get` accepts, without batch statistics.
        per_gate: whether each gate is normalized on its own, not all four as one vector.
        **kwargs: arguments of `keras.layers.LSTMCell`.

    Raises:
        ValueError: if the norm has batch statistics, since a cell cannot update moving
            statistics (use `NormalizedLSTM`); or if the norm needs a spatial axis.

    Reference:
        [Layer Normalization](https://arxiv.org/abs/1607.06450), equations 20 to 22.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras.layers.RNN(keras_norms.NormalizedLSTMCell(4, norm="ln"))
        >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
        (2, 4)
    """

    def __init__(
        self, units: int, *args: Any, norm: Any = "ln", per_gate: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self._make_norms(norm, per_gate)
        if self.norm.has_batch_statistics:
            raise ValueError(
                "A cell cannot keep moving statistics: they must be updated outside of the loop "
                f"over time. Use NormalizedLSTM. Received: norm={norm!r}"
            )

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._build_norms(self)

    def call(
        self, inputs: Tensor, states: Sequence[Tensor], training: bool | None = False
    ) -> tuple[Tensor, list[Tensor]]:
        h, c = states
        kernel, recurrent_kernel = self._kernels(self)
        masks = self.get_dropout_mask(inputs) if training else None
        recurrent_masks = self.get_recurrent_dropout_mask(h) if training else None
        x = _each(self.input_norms, _project(inputs, kernel, masks), _normalize_step)
        h = _each(
            self.recurrent_norms, _project(h, recurrent_kernel, recurrent_masks), _normalize_step
        )
        gates = x + h if self.bias is None else x + h + self.bias
        output, c = _advance(self, gates, c, self.cell_norms, _normalize_step)
        return output, [output, c]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._norm_config()}


@register
class NormalizedLSTM(_NormalizedGates, layers.LSTM):
    """LSTM that normalizes the input's and the state's contributions, and the cell's output.

        gates = norm_x(W x_t) + norm_h(U h_{t-1}) + b
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(norm_c(c_t))

    The next step gets the cell `c` unnormalized. A drop-in for `keras.layers.LSTM`, which it
    equals with norm="none". The gates have one bias, `b`; `norm_c` adds a beta.

    - A norm with batch statistics keeps them for each time step (Cooijmans et al.), starts at
      gamma 0.1 and leaves padded steps out.
    - Switchable normalization uses layer and batch statistics here, if the spec lists no others,
      as `"sn(statistics=('layer', 'group'))"` does.
    - Weight normalization normalizes both kernels, with weights `gain` and `recurrent_gain`.
      With mean-only batch normalization the means of both contributions are subtracted.

    Args:
        units: int, the size of the state.
        *args: further arguments of `keras.layers.LSTM`.
        norm: what `keras_norms.get` accepts.
        per_gate: whether each gate is normalized on its own, not all four as one vector.
        max_steps: int, how many time steps have their own batch statistics; later steps use
            those of the last one. Steps count from the first one read, padding included; with
            `stateful`, from the last `reset_state()`.
        gamma_initializer: initializer of every gamma. None: 0.1 for norms with batch statistics,
            for others the initializer in the spec.
        **kwargs: arguments of `keras.layers.LSTM`.

    Raises:
        ValueError: if the norm needs a spatial axis. In a call: if statistics are synchronized
            over several replicas without `unroll=True`, since TensorFlow's replicas cannot
            communicate inside a loop.

    Reference:
        [Layer Normalization](https://arxiv.org/abs/1607.06450), equations 20 to 22, and
        [Recurrent Batch Normalization](https://arxiv.org/abs/1603.09025), section 3.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.NormalizedLSTM(4, norm="bn", max_steps=10, return_sequences=True)
        >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
        (2, 5, 4)
        >>> tuple(layer.recurrent_norms[0].moving_mean.shape)  # (time steps, gates * units)
        (10, 16)
    """

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

    def build(self, sequences_shape: Shape, initial_state_shape: Any = None) -> None:
        super().build(sequences_shape)
        self._build_norms(self.cell)
        if self.stateful and self.norm.has_batch_statistics and len(self.states) == 2:
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
        cell, (h, c, *_) = self.cell, initial_state
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
        next_step = self.states[2] if len(self.states or ()) > 2 else None
        first = 0 if next_step is None else ops.cast(next_step, "int32")
        kernel, recurrent_kernel = self._kernels(cell)
        masks = cell.get_dropout_mask(sequences[:, 0]) if training else None
        recurrent_masks = cell.get_recurrent_dropout_mask(h) if training else None

        def normalize_all(norm: keras.Layer, x: Tensor) -> Tensor:
            y, batch = _call_norm(norm, x, training, mask, first)
            if batch is not None:
                norm.update_moving(batch, first)
            return y

        updated: Norms = []  # the norms whose moving statistics each step updates
        # The input's contributions do not depend on the state: all steps at once.
        x = _each(self.input_norms, _project(sequences, kernel, masks), normalize_all)
        if cell.bias is not None:
            x = x + ops.cast(cell.bias, x.dtype)
        if mask is not None:
            # The loop gets the mask as one more feature. Given as a mask, it would also be
            # applied to the moments of the batch, which are outputs of the loop.
            x = ops.concatenate([x, ops.cast(mask, x.dtype)[..., None]], -1)

        def step(inputs: Tensor, states: Sequence[Tensor]) -> tuple[list, list]:
            h, c, index, *previous = states
            valid, batches = None, []
            updated.clear()
            if mask is not None:
                inputs, valid = inputs[:, :-1], inputs[:, -1:] > 0

            def normalize(norm: keras.Layer, x: Tensor) -> Tensor:
                y, batch = _call_norm(norm, x[:, None], training, valid, index)
                if batch is not None:
                    parts = [ops.broadcast_to(part, ops.shape(batch.mean)) for part in batch]
                    batches.append(ops.concatenate(parts, 1))
                    updated.append(norm)
                return y[:, 0]

            recurrent = _project(h, recurrent_kernel, recurrent_masks)
            gates = inputs + _each(self.recurrent_norms, recurrent, normalize)
            output, new_c = _advance(cell, gates, c, self.cell_norms, normalize)
            new_h = output
            if valid is not None:
                new_h, new_c = ops.where(valid, new_h, h), ops.where(valid, new_c, c)
                missing = ops.zeros_like(output) if self.zero_output_for_mask else previous[0]
                output = ops.where(valid, output, missing)
                previous = [output]
            return [output, *batches], [new_h, new_c, index + 1, *previous]

        states = [h, c, ops.convert_to_tensor(first, "int32")]
        if mask is not None:
            states.append(ops.zeros_like(h))
        (outputs, *batches), (h, c, index, *_) = _loop(step, x, states, self.unroll)
        for norm, batch in zip(updated, batches, strict=True):
            norm.update_moving(Moments(*(batch[:, :, i] for i in range(3))), first)
        if next_step is not None:
            next_step.assign(index)
        return outputs[:, -1], outputs, [h, c]

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
        kernel: of shape `(features, 4 * units)`.
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


def _each(norms: Norms, x: Tensor, normalize: Normalize) -> Tensor:
    """Splits `x` into as many equal parts as there are norms, and normalizes each by its own."""
    if len(norms) < 2:
        return normalize(norms[0], x) if norms else x
    parts = zip(norms, ops.split(x, len(norms), axis=-1), strict=True)
    return ops.concatenate([normalize(norm, part) for norm, part in parts], -1)


def _advance(
    cell: keras.Layer, gates: Tensor, c: Tensor, norms: Norms, normalize: Normalize
) -> tuple[Tensor, Tensor]:
    """The output and the cell `c` after one step."""
    i, f, g, o = ops.split(gates, 4, axis=-1)
    c = cell.recurrent_activation(f) * c + cell.recurrent_activation(i) * cell.activation(g)
    return cell.recurrent_activation(o) * cell.activation(_each(norms, c, normalize)), c


def _call_norm(
    norm: keras.Layer, x: Tensor, training: bool | None, mask: Tensor | None, first_step: Any
) -> tuple[Tensor, Moments | None]:
    """`Normalization.normalize`, and the same for Keras's norms, which lack this method."""
    if isinstance(norm, Normalization):
        return norm.normalize(x, training, mask, first_step)
    return norm(x), None


def _normalize_step(norm: keras.Layer, x: Tensor) -> Tensor:
    return _call_norm(norm, x[:, None], None, None, 0)[0][:, 0]


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
