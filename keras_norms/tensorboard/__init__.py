"""A tab of TensorBoard that shows what switches and gates chose, while a network trains.

`pip install "keras-norms[tensorflow]"` installs it; `tensorboard --logdir runs` shows it as "Norms".
"""
