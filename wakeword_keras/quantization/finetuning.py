"""The QAT stage: fine-tune with fake quantization in place, so that INT8 is as good as FP32."""

from dataclasses import dataclass
from pathlib import Path

import tf_keras as keras

from wakeword_keras import training
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import device


@dataclass(frozen=True)
class QatConfig:
    """The QAT stage.

    Attributes:
      qat_epochs: passes over the training clips.
      qat_learning_rate: peak of the schedule, a small fraction of the FP32 stage's.
      frozen_share: last part of the epochs in which batch-norm statistics and ranges stand
        still and the forward pass is the device's own arithmetic (`device`).
    """

    qat_epochs: int = 8
    qat_learning_rate: float = 5e-5
    frozen_share: float = 0.5

    def __post_init__(self) -> None:
        if self.qat_epochs < 1:
            raise InputError(f"--qat_epochs={self.qat_epochs}: must be at least 1")
        if not self.qat_learning_rate > 0:
            raise InputError(f"--qat_learning_rate={self.qat_learning_rate}: must be positive")
        if not 0 <= self.frozen_share <= 1:
            raise InputError(f"--frozen_share={self.frozen_share}: must lie between 0 and 1")

    @property
    def frozen_from(self) -> int:
        """First epoch of the frozen part."""
        return self.qat_epochs - round(self.qat_epochs * self.frozen_share)


def finetune(
    qat: keras.Model,
    fp32: keras.Model,
    data: training.TrainingData,
    loss: training.LossConfig,
    config: QatConfig,
    directory: Path,
) -> None:
    """Train a calibrated, fake-quantized model; it ends with the weights of its best epoch.

    Best is judged on the quantized model's own validation metric, so the weights kept are those
    whose *quantized* form is best.

    Args:
      qat: model from `scheme.quantize`, calibrated by `calibration.calibrate`, changed in place.
      fp32: the float model it was made from; stays as it is.
      data, loss: as in the FP32 stage.
      config: how long and how fast.
      directory: as in `training.train`.
    """
    schedule = training.Schedule(
        epochs=config.qat_epochs,
        learning_rate=config.qat_learning_rate,
        weight_decay=0.0,
        patience=config.qat_epochs,
        frozen_from=config.frozen_from,
    )
    exact = device.device_model(qat, fp32)
    training.fit(qat, data, loss, schedule, directory, exact, teacher=fp32)
