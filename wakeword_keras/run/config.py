"""What decides a run: every setting of the line, those of its parts among them."""

import json
import math
from dataclasses import asdict, dataclass

from wakeword_keras import labels, models
from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.ambient_features import AmbientConfig
from wakeword_keras.data.corpus import CorpusConfig
from wakeword_keras.errors import InputError
from wakeword_keras.metrics.stream_rule import LONGEST_AVERAGE_MS, StreamConfig
from wakeword_keras.quantization import finetuning
from wakeword_keras.synthesis.config import SynthesisConfig
from wakeword_keras.synthesis.lines import SIMILAR, SPEECH
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.loop import LossConfig
from wakeword_keras.training.workers import Strategy

TARGETS = ("tflite_micro", "esphome")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of the whole line.

    Attributes:
      run_dir: where everything of this run is written; the same directory resumes it.
      data_dir: folders of recordings, `<label>/<clips>` or with a manifest.csv; several are joined.
      wake_phrase: synthesise a corpus for these phrases, each a wake word of its own, alone or in
        addition to data_dir.
      ambient_dir: folders of long recordings, `<speaker>/.../<recording>`, in which nobody says the
        wake word (leave such files out yourself); a third of the speakers trains, the others show
        false accepts per hour.
      ambient_feature_dirs: folders of features that others publish, in which nobody says the wake
        word: `RaggedMmap` of mmap-ninja, as microWakeWord's negative sets; they train, too.
      impulse_response_dir: folder of room impulse responses, for reverberation in training.
      cache_dir: decoded clips and features, shared by runs on the same recordings.
      model: architecture to train: ds_cnn, mobilenet_v3_small, mobilenet_v3_large, conformer_tiny,
        conformer_s; mixed_conv_small, mixed_conv_medium, mixed_conv_large, which run step by step.
      members: models of the architecture that train together and ship as one, whose logit is their
        mean, 1 or more; only of those that run step by step. A step of 4 costs 4 times as much.
      target: what the INT8 model is bundled for: tflite_micro, or esphome beside it (a streaming
        model, such as mixed_conv_small, with one wake word).
      max_false_accepts_per_hour: false accepts per hour allowed on the validation part of
        ambient_dir; each model's operating threshold is chosen for it.
      average_ms: milliseconds that the device averages scores over, in whole steps: with more it
        fires later, and less often at what sounds alike for a moment only.
      calibration_clips: training clips whose activations set the ranges of quantization.
      seed: of everything random; another seed gives another training.
      strategy: of tf.distribute in training: none; mirrored, on all GPUs of this machine;
        multi_worker, on the machines that the variable TF_CONFIG names, each of which runs this
        command. It may change when an interrupted run goes on.
    """

    run_dir: str = "runs/wakeword"
    data_dir: tuple[str, ...] = ()
    ambient_dir: tuple[str, ...] = ()
    ambient_feature_dirs: tuple[str, ...] = ()
    wake_phrase: tuple[str, ...] = ()
    impulse_response_dir: str = ""
    cache_dir: str = "runs/cache"
    model: str = "ds_cnn"
    members: int = 1
    target: str = "tflite_micro"
    max_false_accepts_per_hour: float = 0.5
    average_ms: int = StreamConfig.average_ms
    calibration_clips: int = 512
    seed: int = 1
    strategy: Strategy = "none"
    corpus: CorpusConfig
    synthesis: SynthesisConfig
    frontend: FrontendConfig
    augment: AugmentConfig
    data: DataConfig
    ambient: AmbientConfig
    loss: LossConfig
    train: TrainConfig
    qat: finetuning.QatConfig

    def __post_init__(self) -> None:
        if self.calibration_clips < 1:
            raise InputError(f"`calibration_clips`={self.calibration_clips}: must be at least 1")
        for word in self.corpus.wake_words:
            if self.wake_phrase and labels.find(word, (SIMILAR, SPEECH)):
                raise InputError(
                    f"`wake_words`={word}: negatives of `wake_phrase` have this label; rename yours"
                )
        budget = self.max_false_accepts_per_hour
        if not 0 < budget < math.inf:
            raise InputError(f"`max_false_accepts_per_hour`={budget:g}: must be above 0")
        if not 1 <= self.average_ms <= LONGEST_AVERAGE_MS:
            raise InputError(f"`average_ms`={self.average_ms}: must be 1 to {LONGEST_AVERAGE_MS}")
        in_batch = self.data.batch - sum(self.ambient.examples(self.data.batch))
        if (self.ambient_dir or self.ambient_feature_dirs) and self.data.echo > in_batch:
            raise InputError(
                f"`echo`={self.data.echo}: must be at most the {in_batch} clips that "
                "`ambient_share` and `hard_share` leave in a `batch`"
            )
        if self.model not in models.ARCHITECTURES:
            raise InputError(
                f"`model`={self.model}: choose one of {', '.join(models.ARCHITECTURES)}"
            )
        self._check_members()
        if self.target not in TARGETS:
            raise InputError(f"`target`={self.target}: choose one of {', '.join(TARGETS)}")
        if self.target == "esphome" and self.model not in models.STREAMING:
            raise InputError(
                f"`target`=esphome: {self.model} does not stream: choose a `model` of "
                f"{', '.join(models.STREAMING)}"
            )

    def _check_members(self) -> None:
        if self.members < 1:
            raise InputError(f"`members`={self.members}: must be at least 1")
        if self.members > 1 and self.model not in models.STREAMING:
            raise InputError(
                f"`members`={self.members}: {self.model} has one only; choose a `model` of "
                f"{', '.join(models.STREAMING)}"
            )
        if self.members > 1 and self.train.teachers:
            raise InputError(
                f"`members`={self.members} and `teachers`={self.train.teachers}: give one of them; "
                "members that learn the same logits are one model several times"
            )


def settings_of(config: RunConfig) -> dict:
    """Every setting that decides what a run computes, by "name" or "part.name", as JSON has it."""
    settings: dict[str, object] = {}
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{field}": setting for field, setting in value.items()}
        elif name not in ("run_dir", "cache_dir", "strategy"):
            settings[name] = value
    return json.loads(json.dumps(settings))
