import numpy as np
import pytest
import soundfile
import tf_keras as keras
from hypothesis import settings
from tf_keras import layers

from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.corpus import CorpusConfig, read_corpus
from wakeword_keras.data.shards import split_features, write_shards
from wakeword_keras.quantization.finetuning import QatConfig
from wakeword_keras.run import pipeline
from wakeword_keras.synthesis.corpus import SynthesisConfig
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.loop import LossConfig, TrainConfig, TrainingData

# Machines that test are shared and slow at times: an example's time proves nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

CLIP_MS = 500
# The reader who says what sounds like yes, and when.
TONES = [("reader-1", 2.0), ("reader-3", 1.5), ("reader-5", 2.5), ("reader-0", 3.0)]


def write_recordings(root, clips=(("yes", 8), ("no", 12))):
    """Tones for yes, noise for the rest, in a manifest; every split has its own speakers."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    time_s = np.arange(6400) / 16000
    rows = ["path,label,speaker,split"]
    for split in ("train", "validation", "test"):
        for label, count in (*clips, ("_background_noise_", 2)):
            for i in range(count):
                name = f"{split}-{label}-{i}.wav"
                sound = rng.normal(0, 0.05, len(time_s))
                if label == "yes":
                    sound += 0.3 * np.sin(2 * np.pi * rng.uniform(700, 900) * time_s)
                soundfile.write(root / name, sound, 16000)
                rows.append(f"{name},{label},{split}-{i},{split}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def write_ambient(root, speakers, seconds=4.0, tones=()):
    """A recording of noise for each speaker, and tones like those of yes at (speaker, second)."""
    for number, name in enumerate(speakers):
        rng = np.random.default_rng(100 + number)
        sound = rng.normal(0, 0.05, round(seconds * 16000))
        for who, start_s in tones:
            if who == name:
                at = np.arange(6400)
                start = round(start_s * 16000)
                sound[start : start + 6400] += 0.3 * np.sin(2 * np.pi * 800 / 16000 * at)
        (root / name / "chapter").mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name / "chapter" / "1.flac", sound, 16000)
    return root


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
    config = pipeline.RunConfig(
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
        loss=LossConfig(),
        train=TrainConfig(epochs=1),
        qat=QatConfig(qat_epochs=1),
    )
    pipeline.run(config)
    return config
