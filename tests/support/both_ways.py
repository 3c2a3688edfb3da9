"""A training step of a layer, by the layer in eager mode and in a graph."""

import tensorflow as tf

from tests.support.norms import values


def function(layer, dy, jit_compile=False, signature=None, order=1, **options):
    """A graph of outputs and gradients, of the second order if wanted."""
    weights = [variable.value for variable in layer.trainable_variables]

    def slopes(x, order):
        with tf.GradientTape() as tape:
            tape.watch(x)
            if order == 1:
                y = layer(x, training=True, **options)
                loss = tf.reduce_sum(y * tf.cast(dy, y.dtype))
            else:
                y, *inner = slopes(x, order - 1)
                loss = sum(tf.reduce_sum(tf.sin(slope)) for slope in inner)
        return y, *tape.gradient(loss, [x, *weights], unconnected_gradients="zero")

    @tf.function(jit_compile=jit_compile, input_signature=signature)
    def run(x):
        return slopes(x, order)

    return run


def both(layer, x, dy, **options):
    """What a step gives and leaves in the layer: by the layer in eager mode, and in a graph."""
    start, found = layer.get_weights(), []
    for eager in (True, False):
        layer.set_weights(start)
        run = function(layer, dy, **options)
        try:
            tf.config.run_functions_eagerly(eager)
            results = run(tf.constant(x))
        finally:
            tf.config.run_functions_eagerly(False)
        found.append([*(tf.cast(r, "float64").numpy() for r in results), *values(layer).values()])
    return zip(*found, strict=True)
