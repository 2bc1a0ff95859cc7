"""Several devices or machines that train one model (tf.distribute): who they are, what they share.

Each worker is a process that runs the same command. The chief, the first of them, alone decides and
writes: it tells the others where a training begins, and after each epoch whether it goes on. So
nothing depends on machines that round alike.
"""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.errors import InputError
from wakeword_keras.files import sha256
from wakeword_keras.progress import say
from wakeword_keras.training.hard_negatives import Pools

Strategy = Literal["none", "mirrored", "multi_worker"]
Task = tuple[str, int]

_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_FILE_S = 60  # that a shared folder may take to show a new file
_TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


@dataclass(frozen=True)
class Workers:
    """The workers of a training, seen from one of them.

    Attributes:
      strategy: of tf.distribute; None to train without one.
      addresses: host:port of each worker by its task, such as ("worker", 0), the chief's first;
        empty where there is one process alone.
      task: of this worker.
    """

    strategy: tf.distribute.Strategy | None = None
    addresses: tuple[tuple[Task, str], ...] = ()
    task: Task = ("worker", 0)

    @property
    def is_chief(self) -> bool:
        """Whether this worker decides and writes."""
        return not self.addresses or self.addresses[0][0] == self.task

    @property
    def replicas(self) -> int:
        """Devices that share a batch."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    def scope(self) -> contextlib.AbstractContextManager:
        """Where variables are made that the strategy trains."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def share(self, content: Any = None) -> Any:
        """Give every worker what the chief has; all have to call it, and wait for each other.

        Args:
          content: the chief's, anything that JSON holds; that of the others is ignored.
        """
        if len(self.addresses) < 2:
            return content
        text = json.dumps(content).encode() if self.is_chief else b""
        (length,) = self._chiefs(np.array([len(text)])).tolist()
        letters = np.frombuffer(text.ljust(length), np.uint8)
        return json.loads(self._chiefs(letters.astype(np.int32)).astype(np.uint8).tobytes())

    def share_variables(self, variables: Sequence[tf.Variable]) -> None:
        """Give every worker's variables the values of the chief's."""
        if len(self.addresses) < 2:
            return
        for variable in variables:
            variable.assign(self._chiefs(variable.numpy()))

    def see(self, path: Path) -> None:
        """Wait until all workers are here, and each sees the chief's file.

        Raises:
          InputError: this worker sees another file, or none.
        """
        wanted = self.share(sha256(path) if self.is_chief else None)
        end = time.monotonic() + _FILE_S
        while not self.is_chief and not (path.exists() and sha256(path) == wanted):
            if time.monotonic() > end:
                raise InputError(
                    f"{path} is not the chief's: give all workers the same `run_dir`, in a folder "
                    "that they share"
                )
            time.sleep(1)
        self.share()  # the chief may change it now

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within the block, one of the others that is lost is an InputError that names it."""
        try:
            yield
        except _LOST as error:
            if len(self.addresses) < 2 or "ollective" not in str(error):
                raise  # not of an operation that workers do together
            # A message names who is lost, and where the operation ran that found out.
            named = [(kind, int(index)) for kind, index in _TASK.findall(str(error))]
            lost = [task for task in named if task in self._places and task != self.task]
            raise InputError(
                f"{self.name(lost[0]) if lost else 'another worker'} has ended or cannot be "
                "reached: its own output says why. The same command on every worker goes on from "
                "the last whole epoch"
            ) from error

    def name(self, task: Task) -> str:
        """A worker's task and address."""
        return f"{task[0]} {task[1]} ({self._places[task]})"

    @property
    def _places(self) -> dict[Task, str]:
        return dict(self.addresses)

    def _chiefs(self, values: np.ndarray) -> np.ndarray:
        """The chief's array: the sum of its and the others' zeros."""
        assert self.strategy is not None
        values = values if self.is_chief else np.zeros_like(values)
        # TensorFlow keeps constants in places that a collective operation does not read.
        return self.strategy.reduce("SUM", tf.identity(values), axis=None).numpy()


ALONE = Workers()


class CopyBack(keras.callbacks.Callback):
    """Gives a model the weights of its copy that trains in a strategy; every worker needs it.

    Each replica has batch-norm statistics of its own: the model gets their mean, and so do they.

    Args:
      copy: what is trained.
      model: the same model outside of the strategy.
    """

    def __init__(self, copy: keras.Model, model: keras.Model) -> None:
        super().__init__()
        self._copy, self._model = copy, model

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Copy."""
        self._model.set_weights(self._copy.get_weights())
        self._copy.set_weights(self._model.get_weights())


class FollowChief(keras.callbacks.Callback):
    """Tells the other workers what the chief decided: whether to go on, and hard negatives.

    Args:
      workers: that train together; each lists this callback last.
      pools: of hard negatives, which the chief has found.
    """

    def __init__(self, workers: Workers, pools: Pools) -> None:
        super().__init__()
        self._workers, self._pools = workers, pools

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Tell, or be told."""
        said = self._workers.share(
            {"stop": self.model.stop_training, "pools": self._pools.content()}
            if self._workers.is_chief
            else None
        )
        if not self._workers.is_chief:
            self.model.stop_training = said["stop"]
            self._pools.take(said["pools"])


def join(name: Strategy) -> Workers:
    """Make a strategy; with multi_worker, wait until all workers are there.

    TensorFlow takes this at its start alone, before it has computed anything.

    Args:
      name: none; mirrored, on all GPUs of this machine or its CPU; multi_worker, on the
        machines that the variable TF_CONFIG names.

    Raises:
      InputError: TF_CONFIG is missing or wrong, or the workers cannot be joined.
    """
    if name == "none":
        return ALONE
    if name == "mirrored":
        return Workers(tf.distribute.MirroredStrategy())
    workers = Workers(None, *_cluster(os.environ.get("TF_CONFIG", "")))
    others = len(workers.addresses) - 1
    chief = "the chief" if workers.is_chief else f"chief: {workers.name(workers.addresses[0][0])}"
    say(f"{workers.name(workers.task)}, {chief}: waiting for {others} more")
    # TensorFlow takes SIGTERM for a warning that it passes on to the others, and goes on.
    ending = signal.getsignal(signal.SIGTERM)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise InputError(
            f"TF_CONFIG: {workers.name(workers.task)} cannot join the others ({error}): "
            "its port has to be free, and every worker started"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, ending)
    return replace(workers, strategy=strategy)


def _cluster(config: str) -> tuple[tuple[tuple[Task, str], ...], Task]:
    """The workers that a TF_CONFIG names, and which of them this is."""
    if not config:
        raise InputError(f"`strategy`=multi_worker: set TF_CONFIG on each worker: {_EXAMPLE}")
    try:
        content = json.loads(config)
        jobs, task = content["cluster"], (content["task"]["type"], int(content["task"]["index"]))
        addresses = tuple(
            ((job, index), str(address))
            for job in ("chief", "worker")
            for index, address in enumerate(jobs.get(job, ()))
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"TF_CONFIG is not like {_EXAMPLE}: {error!r}") from error
    faults = [
        f"{address!r} of {job} {index} is not host:port"
        for (job, index), address in addresses
        if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):[0-9]{1,5}", address)
    ]
    if set(jobs) - {"chief", "worker"} or len(jobs.get("chief", ())) > 1:
        faults.append("a cluster is of workers, and of one chief at most")
    if len({address for _, address in addresses}) < len(addresses):
        faults.append("two workers have one address")
    if task not in dict(addresses):
        known = ", ".join(f"{job} {index}" for (job, index), _ in addresses)
        faults.append(f"task {task[0]} {task[1]} is not in the cluster of {known or 'none'}")
    if faults:
        raise InputError(f"TF_CONFIG: {faults[0]}; give one like {_EXAMPLE}")
    return addresses, task
