"""Names that several parts share, written once: splits, groups, labels and a run's models."""

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
"""From the least to the most held out."""

POSITIVE, SPEECH, NOISE = "positive", "speech", "noise"
GROUPS = (POSITIVE, SPEECH, NOISE)
"""What a clip is to the wake word: the phrase itself, other speech, or no speech."""

BACKGROUND_NOISE, SILENCE, AMBIENT = "_background_noise_", "_silence_", "_ambient_"
"""Labels of clips without speech, and of pieces of long recordings."""
NOISE_LABELS = frozenset({BACKGROUND_NOISE, "_background_", SILENCE})

FP32, QAT = "fp32", "qat"
FP32_TFLITE, INT8_PTQ, INT8 = "fp32_tflite", "int8_ptq", "int8"
FP32_ONNX, INT8_ONNX = "fp32_onnx", "int8_onnx"
"""A run's models: in Keras, as TFLite files and as ONNX files. INT8 is the one that ships."""

TFLITE_FILES = {
    FP32_TFLITE: "model_fp32.tflite",
    INT8_PTQ: "model_int8_ptq.tflite",
    INT8: "model_int8.tflite",
}
STREAMING_FILES = {
    FP32_TFLITE: "model_fp32_streaming.tflite",
    INT8_PTQ: "model_int8_ptq_streaming.tflite",
    INT8: "model_int8_streaming.tflite",
}
"""Of an architecture that streams: the same models step by step."""
ONNX_FILES = {FP32_ONNX: "model_fp32.onnx", INT8_ONNX: "model_int8.onnx"}
ONNX_STREAMING_FILES = {
    FP32_ONNX: "model_fp32_streaming.onnx",
    INT8_ONNX: "model_int8_streaming.onnx",
}
