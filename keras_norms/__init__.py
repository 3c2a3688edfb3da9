"""The normalization layers that Keras lacks, as drop-ins for `keras.layers`."""

from keras_norms.batch import BatchNormalization
from keras_norms.batch_instance import BatchInstanceNormalization
from keras_norms.group import GroupNormalization
from keras_norms.instance import InstanceNormalization
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.switchable import SwitchableNormalization
from keras_norms.version import __version__
