import pytest
import tf_keras as keras
from hypothesis import settings
from small_recordings import CLIP_MS, TONES, write_ambient, write_recordings
from tf_keras import layers

from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.ambient_features import AmbientConfig
from wakeword_keras.data.corpus import CorpusConfig, read_corpus
from wakeword_keras.data.shards import split_features, write_shards
from wakeword_keras.quantization.finetuning import QatConfig
from wakeword_keras.run import pipeline
from wakeword_keras.run.config import RunConfig
from wakeword_keras.synthesis.config import SynthesisConfig
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.loop import LossConfig, TrainingData

# Machines that test are shared and slow at times: an example's time proves nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def training_data(tmp_path_factory):
    root = write_recordings(tmp_path_factory.mktemp("recordings"))
    corpus = read_corpus([str(root)], CorpusConfig(wake_words=("yes",), clip_ms=CLIP_MS))
    shards = write_shards(corpus, CLIP_MS, tmp_path_factory.mktemp("cache"))
    frontend = FrontendConfig()
    validation = split_features(shards, "validation", frontend)
    return TrainingData(
        shards,
        (validation,),
        frontend,
        AugmentConfig(),
        DataConfig(batch=4, echo=2, shuffle=32),
        seed=1,
    )


@pytest.fixture
def tiny_model(training_data):
    """A small model without dropout: what it learns depends on the batches alone."""
    keras.utils.set_random_seed(1)
    frames = training_data.frontend.num_frames(training_data.shards.clip_samples)
    x = inputs = layers.Input((frames, 40), name="features")
    x = layers.Reshape((frames, 40, 1), name="image")(x)
    x = layers.Conv2D(4, (8, 8), (8, 8), use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(1, name="logit")(x))


@pytest.fixture(scope="session")
def stream_run(tmp_path_factory):
    """The settings of a whole run on tiny recordings and ambient audio; it is finished."""
    root = tmp_path_factory.mktemp("run")
    readers = [f"reader-{i}" for i in range(6)]
    config = RunConfig(
        run_dir=str(root / "run"),
        cache_dir=str(root / "cache"),
        data_dir=(str(write_recordings(root / "words")),),
        ambient_dir=(str(write_ambient(root / "ambient", readers, tones=TONES)),),
        calibration_clips=16,
        corpus=CorpusConfig(wake_words=("yes",), clip_ms=CLIP_MS),
        synthesis=SynthesisConfig(),
        frontend=FrontendConfig(),
        augment=AugmentConfig(),
        data=DataConfig(batch=8, echo=2, shuffle=32),
        ambient=AmbientConfig(),
        loss=LossConfig(),
        train=TrainConfig(epochs=1),
        qat=QatConfig(qat_epochs=1),
    )
    pipeline.run(config)
    return config
