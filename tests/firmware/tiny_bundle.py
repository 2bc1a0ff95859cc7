"""A bundle of a tiny model of two wake words, made in a second."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.firmware.bundle import write_bundle
from wakeword_keras.firmware.golden_clips import GoldenClip
from wakeword_keras.firmware.model_description import describe_model
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.tflite import streaming

FRONTEND = FrontendConfig()
CLIP_MS = 200
FRAMES = 18
WAKE_WORDS = ("hey_jarvis", "alexa")
HASHES = {"corpus": "12ab", "config": "34cd"}


def convert(path, highest=FRONTEND.input_affine.high, interface=tf.int8):
    """An int8 .tflite whose input range ends at `highest`."""
    keras.utils.set_random_seed(0)
    features = keras.Input((FRAMES, 40))
    x = keras.layers.Reshape((FRAMES, 40, 1))(features)
    x = keras.layers.Conv2D(2, 3, 2, activation="relu")(x)
    logits = keras.layers.Dense(len(WAKE_WORDS))(keras.layers.GlobalAveragePooling2D()(x))
    return _convert(keras.Model(features, logits), path, highest, interface)


STEP_FRAMES = 4  # a clip is no whole number of steps
STEPS = 5
LISTENING = StreamConfig(stride_ms=40, average_ms=80)


def convert_streaming(path):
    """An int8 streaming .tflite of the same shapes; its window file lies beside it."""
    keras.utils.set_random_seed(0)
    features = keras.Input((FRAMES, 40))
    x = keras.layers.Reshape((FRAMES, 40, 1))(features)
    x = keras.layers.Conv2D(6, (6, 40), (STEP_FRAMES, 1))(x)
    x = keras.layers.DepthwiseConv2D((3, 1), activation="relu")(x)
    logits = keras.layers.Dense(len(WAKE_WORDS))(keras.layers.Flatten()(x))
    window = _convert(keras.Model(features, logits), path.with_name("window.tflite"))
    path.write_bytes(streaming.to_bytes(streaming.stream(window)))
    return path


def _convert(model, path, highest=FRONTEND.input_affine.high, interface=tf.int8):
    signature = [tf.TensorSpec((1, FRAMES, 40))]
    call = tf.function(lambda x: model(x, training=False), input_signature=signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], model
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ramp = np.linspace(0, highest, FRAMES * 40, dtype=np.float32).reshape(1, FRAMES, 40)
    converter.representative_dataset = lambda: ([ramp],)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = interface
    path.write_bytes(converter.convert())
    return path


def golden_clips():
    """Twelve clips from silence to full scale, some clipped."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(12, CLIP_MS * 16))
    loudness = np.geomspace(1, 60000, 12)[:, np.newaxis]
    audio = np.clip(noise * loudness, -32768, 32767).astype(np.int16)
    audio[0] = 0
    return [
        GoldenClip("silence" if i < 2 else "positive", f"noise {i}", clip)
        for i, clip in enumerate(audio)
    ]


def write(model_path, out_dir, **changed):
    """Write the bundle, with other arguments where `changed` has them."""
    output = describe_model(model_path)["output"]
    arguments = {
        "wake_words": WAKE_WORDS,
        "frontend": FRONTEND,
        "clip_ms": CLIP_MS,
        # Between the logits of 10 and 11.
        "threshold_logit": output["scale"] * (10.3 - output["zero_point"]),
        "hashes": HASHES,
    }
    write_bundle(model_path, out_dir, **(arguments | changed))
    return out_dir
