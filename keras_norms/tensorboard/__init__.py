"""A tab of TensorBoard that shows what switches and gates chose, while a network trains.

`pip install "keras-norms[tensorflow]"` installs it, and `tensorboard --logdir runs` shows it as the
tab "Norms".
"""
