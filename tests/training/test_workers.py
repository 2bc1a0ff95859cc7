import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, fake_quantize, finetuning
from wakeword_keras.quantization.finetuning import QatConfig
from wakeword_keras.training import fp32_stage, hard_negatives, loop, weights, workers
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.hard_negatives import Heard, Pool, Pools
from wakeword_keras.training.loop import LossConfig
from wakeword_keras.training.workers import ALONE

TWO = ["10.0.0.1:2222", "10.0.0.2:2222"]


def cluster(index=0, kind="worker", **jobs):
    return json.dumps({"cluster": jobs or {"worker": TWO}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (None, "set TF_CONFIG on each worker"),
        ("{", "TF_CONFIG is not like"),
        ("[]", "TF_CONFIG is not like"),
        ("{}", "TF_CONFIG is not like"),
        (json.dumps({"cluster": {"worker": TWO}}), "'task'"),
        (cluster("first"), "TF_CONFIG is not like"),
        (cluster(2), "task worker 2 is not in the cluster of worker 0, worker 1"),
        (cluster(-1), "task worker -1 is not in the cluster"),
        (cluster(kind="evaluator"), "task evaluator 0 is not in the cluster"),
        (cluster(worker=["10.0.0.1"]), "'10.0.0.1' of worker 0 is not host:port"),
        (cluster(worker=[TWO[0], TWO[0]]), "two workers have one address"),
        (cluster(worker=TWO, ps=["10.0.0.3:2222"]), "a cluster is of workers"),
        (cluster(worker=[]), "task worker 0 is not in the cluster of none"),
    ],
)
def test_a_wrong_tf_config_is_named(config, named, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError) as error:
        workers.join("multi_worker")
    assert named in str(error.value)
    assert '{"cluster": {"worker": [' in str(error.value)  # what a right one looks like


def test_the_chief_is_the_first_worker_unless_one_is_named():
    addresses, task = workers._cluster(cluster(0))
    assert workers.Workers(None, addresses, task).is_chief
    addresses, task = workers._cluster(cluster(0, worker=TWO, chief=["10.0.0.3:2222"]))
    assert not workers.Workers(None, addresses, task).is_chief
    assert addresses[0] == (("chief", 0), "10.0.0.3:2222")


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def trained(model, data, directory, team):
    """The weights of both stages."""
    fp32 = copy_of(model)
    fp32_stage.train(fp32, data, LossConfig(), TrainConfig(epochs=2), directory / "fp32", team)
    qat = fake_quantize.quantize(fp32, data.frontend.input_affine)
    calibration.calibrate(qat, fp32, data.validation[0].features)
    finetuning.finetune(
        qat, fp32, data, LossConfig(), QatConfig(qat_epochs=2), directory / "qat", team
    )
    return [*fp32.get_weights(), *qat.get_weights()]


def histories(directory):
    """What both stages logged, but the seconds."""
    found = []
    for stage in ("fp32", "qat"):
        with (directory / stage / "history.csv").open(newline="") as file:
            found += [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return found


@pytest.mark.slow
def test_one_device_mirrored_learns_bit_for_bit_what_none_learns(
    tiny_model, training_data, tmp_path
):
    none = trained(tiny_model, training_data, tmp_path / "none", ALONE)
    mirrored = trained(tiny_model, training_data, tmp_path / "mirrored", workers.join("mirrored"))
    for a, b in zip(none, mirrored, strict=True):
        np.testing.assert_array_equal(a, b)
    assert histories(tmp_path / "none") == histories(tmp_path / "mirrored")


def test_a_training_goes_on_under_another_strategy(tiny_model, training_data, tmp_path):
    whole, interrupted = copy_of(tiny_model), copy_of(tiny_model)
    fp32_stage.train(whole, training_data, LossConfig(), TrainConfig(epochs=3), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(self, epoch, logs=None):
        original(self, epoch, logs)
        if epoch == 0:
            raise Stop

    original = loop.callbacks.Resume.on_epoch_end
    args = (training_data, LossConfig(), TrainConfig(epochs=3), tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.callbacks.Resume, "on_epoch_end", stop)
        with pytest.raises(Stop):
            fp32_stage.train(interrupted, *args)
    resumed = copy_of(tiny_model)
    fp32_stage.train(resumed, *args, workers.join("mirrored"))
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def pool(epoch, from_step):
    heard = (Heard("reader", "reader.wav", 1.5, 0.9),)
    return Pool(epoch, from_step, (3, 5), (7,), 0.1, 0.5, 2, heard, heard)


def test_pools_of_the_chief_are_drawn_from_by_all(tmp_path):
    chief, other = Pools(tmp_path / "chief.json"), Pools(tmp_path / "other.json")
    chief.add(pool(1, 20))
    other.take(json.loads(json.dumps(chief.content())))
    assert other.at(19) is None
    assert other.at(20) == pool(1, 20)
    assert not (tmp_path / "other.json").exists()
    chief.add(pool(2, 40))
    other.at(40)
    with pytest.raises(AssertionError, match=hard_negatives._TOO_FAR_AHEAD):
        other.take(json.loads(json.dumps(chief.content())))


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """In processes of their own: devices are made at TensorFlow's start."""
    folder = tmp_path_factory.mktemp("devices")
    root = Path(__file__).parents[2]
    for devices in "12":
        subprocess.run(
            [sys.executable, Path(__file__).with_name("train_on_devices.py"), devices, folder],
            check=True,
            env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
        )
    return folder


def checkpoints(folder, stage):
    return [weights.read_arrays(folder / n / stage / "checkpoint.npz") for n in "12"]


@pytest.mark.slow
def test_two_devices_learn_fp32_as_one_does(on_devices):
    one, two = checkpoints(on_devices, "fp32")
    # Fused batch norm multiplies the variance that it keeps by n / (n - 1), a synchronized one not:
    # n is 4 clips of 6 by 5 pixels.
    one["model"][4] = one["model"][4] - (one["model"][4] - 0.9**10) / 120
    for group in ("model", "optimizer"):  # the optimizer's show the size of gradients
        for a, b in zip(one[group], two[group], strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(a).max())


@pytest.mark.slow
def test_two_devices_learn_the_teachers_logits_as_one_does(on_devices):
    one, two = checkpoints(on_devices, "qat")
    # A rounding error may turn an integer over: gradients are near to each other, not equal.
    for a, b in zip(one["optimizer"], two["optimizer"], strict=True):
        assert np.linalg.norm(b - a) <= 0.1 * np.linalg.norm(a)
