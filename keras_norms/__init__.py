"""The normalization layers that Keras lacks, as drop-ins for `keras.layers`."""

from keras_norms.batch import BatchNormalization
from keras_norms.batch_instance import BatchInstanceNormalization
from keras_norms.group import GroupNormalization
from keras_norms.instance import InstanceNormalization
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.optimizers import configure_optimizer, control_variables, no_decay_variables
from keras_norms.statistics import freeze, recalibrate, unfreeze
from keras_norms.switchable import SwitchableNormalization
from keras_norms.version import __version__

__all__ = [
    "BatchInstanceNormalization",
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "MeanOnlyBatchNormalization",
    "SwitchableNormalization",
    "__version__",
    "configure_optimizer",
    "control_variables",
    "freeze",
    "no_decay_variables",
    "recalibrate",
    "unfreeze",
]
