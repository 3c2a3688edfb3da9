"""Runs scripts/train.py in this process, which gets signals at moments that are chosen.

    python -m tests.support.interrupted MOMENT:SIGNAL[,MOMENT:SIGNAL] [the arguments of train.py]

MOMENT is `step:N:SECONDS`, so long after the begin of the N-th step that this process takes, or
`write:N:SHARE`, when this share of the N-th checkpoint that it writes is on disk; from a share
of 1 on the file is complete, from 2 on it has got its name. At most one is a step.
"""

import functools
import io
import os
import signal
import sys
import threading
import time

from zoo.commands.common import silent_libraries

with silent_libraries():
    from zoo.commands import train as command
    from zoo.training import callbacks, checkpoint


def at_step(number, seconds, end):
    begin, seen = callbacks.StepTimer.on_train_batch_begin, []

    def wait():
        time.sleep(seconds)
        end()

    def on_train_batch_begin(self, batch, logs=None):
        seen.append(batch)
        if len(seen) == number:
            threading.Thread(target=wait, daemon=True).start() if seconds else end()
        begin(self, batch, logs)

    callbacks.StepTimer.on_train_batch_begin = on_train_batch_begin


def at_write(number, share, end):
    savez, replace, seen = checkpoint.np.savez, os.replace, []

    def write(file, *arrays, **named):
        seen.append(file)
        whole = io.BytesIO()
        savez(whole, *arrays, **named)
        now = len(seen) == number
        file.write(whole.getvalue()[: int(share * len(whole.getvalue())) if now else None])
        file.flush()
        if now and share < 2:
            end()

    def rename(source, target):
        replace(source, target)
        if len(seen) == number and str(target).endswith(".npz"):
            end()

    checkpoint.np.savez, checkpoint.os.replace = write, rename


if __name__ == "__main__":
    moments = {"step": at_step, "write": at_write}
    for moment in sys.argv.pop(1).split(","):
        kind, number, when, sent = moment.split(":")
        end = functools.partial(os.kill, os.getpid(), signal.Signals[sent])
        moments[kind](int(number), float(when), end)
    command.main()
