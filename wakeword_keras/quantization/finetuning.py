"""The QAT stage: the INT8 model learns to give the FP32 model's logits.

What is trained is the device's own arithmetic (`integer_model`), what it learns is the difference
that the report will measure: the labels have had their say in the FP32 stage, and learning them
again moves the weights for reasons that have nothing to do with quantization.
"""

from dataclasses import dataclass
from pathlib import Path

import tf_keras as keras

from wakeword_keras.errors import InputError
from wakeword_keras.quantization import fake_quantize, integer_model
from wakeword_keras.training import loop
from wakeword_keras.training.workers import ALONE, Workers


@dataclass(frozen=True)
class QatConfig:
    """The QAT stage.

    Attributes:
      qat_epochs: passes over the training clips while QAT fine-tunes.
      qat_learning_rate: peak of the schedule, a small fraction of the FP32 stage's.
    """

    qat_epochs: int = 8
    qat_learning_rate: float = 5e-5

    def __post_init__(self) -> None:
        if self.qat_epochs < 1:
            raise InputError(f"`qat_epochs`={self.qat_epochs}: must be at least 1")
        if not self.qat_learning_rate > 0:
            raise InputError(f"`qat_learning_rate`={self.qat_learning_rate}: must be positive")


def finetune(
    qat: keras.Model,
    fp32: keras.Model,
    data: loop.TrainingData,
    loss: loop.LossConfig,
    config: QatConfig,
    directory: Path,
    workers: Workers = ALONE,
) -> None:
    """Train a calibrated, fake-quantized model; it ends with the weights that `KeepBest` keeps.

    Epochs are judged on the quantized model's own validation metric, so the weights kept are those
    whose *quantized* form is best. Ranges and batch-norm statistics stay as they are.

    Args:
      qat: model from `fake_quantize.quantize`, calibrated by `calibration.calibrate`; changed in
        place.
      fp32: the float model that was quantized, whose logits it learns; stays as it is.
      data: as in the FP32 stage.
      loss: of the FP32 stage, logged for comparison.
      config: how long and how fast.
      directory, workers: as in `fp32_stage.train`.
    """
    schedule = loop.Schedule(
        epochs=config.qat_epochs,
        learning_rate=config.qat_learning_rate,
        weight_decay=0.0,
        patience=config.qat_epochs,
    )
    exact = integer_model.device_model(qat, fp32)

    def copies() -> tuple[keras.Model, keras.Model]:
        copy = fake_quantize.quantize(fp32, data.frontend.input_affine)
        return copy, integer_model.device_model(copy, fp32)

    models = loop.Models(kept=qat, learning=exact, judged=exact, copies=copies)
    loop.fit(models, data, loss, schedule, directory, teacher=fp32, workers=workers)
