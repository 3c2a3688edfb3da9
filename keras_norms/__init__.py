"""The normalization layers that Keras lacks, as drop-ins for `keras.layers`."""

from keras_norms import callbacks
from keras_norms.analysis import importance
from keras_norms.batch import BatchNormalization
from keras_norms.batch_instance import BatchInstanceNormalization
from keras_norms.conditional import (
    AdaptiveInstanceNormalization,
    ConditionalInstanceNormalization,
)
from keras_norms.data_init import data_dependent_init
from keras_norms.group import GroupNormalization
from keras_norms.gru import NormalizedGRU, NormalizedGRUCell
from keras_norms.instance import InstanceNormalization
from keras_norms.lstm import NormalizedLSTM, NormalizedLSTMCell
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.optimizers import (
    LossScaleOptimizer,
    configure_optimizer,
    control_variables,
    no_decay_variables,
)
from keras_norms.registry import NAMES, get
from keras_norms.selection.compare import compare
from keras_norms.selection.result import ComparedNorms
from keras_norms.statistics import freeze, recalibrate, unfreeze
from keras_norms.surgery.convert import convert
from keras_norms.surgery.fold import fold
from keras_norms.surgery.strip import strip
from keras_norms.switchable import SwitchableNormalization
from keras_norms.version import __version__
from keras_norms.weight import WeightNormalization
from keras_norms.weight_standardization import WeightStandardization

__all__ = [
    "NAMES",
    "AdaptiveInstanceNormalization",
    "BatchInstanceNormalization",
    "BatchNormalization",
    "ComparedNorms",
    "ConditionalInstanceNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LossScaleOptimizer",
    "MeanOnlyBatchNormalization",
    "NormalizedGRU",
    "NormalizedGRUCell",
    "NormalizedLSTM",
    "NormalizedLSTMCell",
    "SwitchableNormalization",
    "WeightNormalization",
    "WeightStandardization",
    "__version__",
    "callbacks",
    "compare",
    "configure_optimizer",
    "control_variables",
    "convert",
    "data_dependent_init",
    "fold",
    "freeze",
    "get",
    "importance",
    "no_decay_variables",
    "recalibrate",
    "strip",
    "unfreeze",
]
