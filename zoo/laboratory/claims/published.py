"""Published numbers, as data. Those of figures are digitized, to about 0.01."""

from keras_norms.analysis import with_both

# Of arXiv 1806.10779, ResNet-50 on ImageNet with 8 GPUs, the figure of the ratios by batch size:
# {samples per GPU: importance of each statistic in the whole net}.
BATCH_SIZES = {
    32: {"batch": 0.59, "instance": 0.16, "layer": 0.25},
    16: {"batch": 0.53, "instance": 0.19, "layer": 0.29},
    8: {"batch": 0.40, "instance": 0.21, "layer": 0.40},
    4: {"batch": 0.27, "instance": 0.25, "layer": 0.48},
    2: {"batch": 0.14, "instance": 0.31, "layer": 0.55},
    1: {"batch": 0.00, "instance": 0.52, "layer": 0.48},
}
# Of the same nets, the figure of the ratios by block, from the stem b1 to the last stage b5:
# {samples per GPU: {kind: (batch, instance, layer) of each block}}.
_BLOCKS = {
    32: {
        "mean": (
            *((0.17, 0.17, 0.64), (0.56, 0.15, 0.29), (0.51, 0.22, 0.27)),
            *((0.60, 0.17, 0.24), (0.42, 0.09, 0.48)),
        ),
        "variance": (
            *((0.66, 0.13, 0.21), (0.58, 0.26, 0.16), (0.41, 0.37, 0.21)),
            *((0.41, 0.25, 0.33), (0.13, 0.02, 0.85)),
        ),
    },
    2: {
        "mean": (
            *((0.02, 0.22, 0.75), (0.30, 0.35, 0.35), (0.48, 0.26, 0.25)),
            *((0.57, 0.16, 0.28), (0.13, 0.12, 0.75)),
        ),
        "variance": (
            *((0.03, 0.07, 0.90), (0.13, 0.72, 0.15), (0.26, 0.40, 0.34)),
            *((0.18, 0.20, 0.62), (0.01, 0.41, 0.58)),
        ),
    },
}
# {samples per GPU: {block: {kind: {statistic: share}}}}, with the kind "both" too. b1 is called
# "stem", as in our nets.
BLOCKS = {
    batch: {
        name: with_both(
            {
                kind: dict(zip(("batch", "instance", "layer"), blocks[index], strict=True))
                for kind, blocks in kinds.items()
            }
        )
        for index, name in enumerate(("stem", "b2", "b3", "b4", "b5"))
    }
    for batch, kinds in _BLOCKS.items()
}
