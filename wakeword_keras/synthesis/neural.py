"""What the neural voices share: phonemes by espeak-ng in, speech and its phonemes' times out.

A voice is an ONNX graph that takes symbols of the phonetic alphabet and predicts how many frames
each of them lasts. Two changes to the graph make its speech a function of its inputs alone: the
noise that it draws becomes an input, and the durations become an output, which gives the time of
every word. A third lets words be drawn out and pauses be made as people do: the durations are
multiplied by an input before they are rounded.
"""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wakeword_keras import files
from wakeword_keras.errors import InputError
from wakeword_keras.synthesis.espeak import Espeak, Phoneme, Utterance

PAUSE = "_"
NO_WORD = -1
Symbol = tuple[str, int]
"""A symbol and the index of the first character of its word, `NO_WORD` between words."""

STRETCH = "stretch"
"""Input: float32 [symbols], factor of each symbol's duration."""

_PUNCTUATION = ".,!?"
# Standard deviations of the logarithm of what words and the pauses between them last.
_WORDS_VARY, _PAUSES_VARY = 0.15, 0.5
_PEAK = 0.9


class Pronunciation:
    """Phonemes of texts, in the accents of English that espeak-ng has.

    Raises:
        InputError: the wheel espeakng-loader is not installed.
    """

    def __init__(self) -> None:
        self._word = functools.cache(Espeak().phonemes)

    def symbols(self, text: str, accent: str) -> list[Symbol]:
        """Symbols of a text, one letter of the phonetic alphabet each, stress marks included.

        Args:
            text: words, or espeak mnemonics as `[[h@l'oU]]`; punctuation is kept.
            accent: one of espeak's, as `en-us`.
        """
        found: list[Symbol] = []
        start = 0
        for raw in text.split(" "):
            word = raw.rstrip(_PUNCTUATION)
            if word:
                found += [(c, start) for c in "".join(self._word(word, accent))]
            found += [(c, NO_WORD) for c in raw[len(word) :] + " "]
            start += len(raw) + 1
        return found[:-1]  # less the space after the last word


class Graph:
    """A voice's graph, opened when it first speaks, which takes seconds; any thread may ask.

    Args:
        path, durations_op: as `open_graph` takes them.
    """

    def __init__(self, path: Path, durations_op: str) -> None:
        self._lock = threading.Lock()
        self._open = functools.cache(lambda: open_graph(path, durations_op))

    def opened(self) -> tuple[Any, list[str]]:
        """What `open_graph` returns, opened once."""
        with self._lock:
            return self._open()


def open_graph(path: Path, durations_op: str) -> tuple[Any, list[str]]:
    """Opens a voice's graph with its noise as inputs and its durations as the last output.

    Args:
        path: ONNX file.
        durations_op: type of the one operation whose output is the durations, rounded to frames.

    Returns:
        onnxruntime session; names of the noise inputs, float32 [1, channels, frames] each, of which
        the graph takes as much as it needs from the start.

    Raises:
        InputError: the file is no ONNX graph of this kind.
    """
    import onnx
    import onnxruntime

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and the system's errors have no common class
        raise InputError(f"{path}: is no ONNX file that can be read ({error})") from error
    durations = [node for node in model.graph.node if node.op_type == durations_op]
    if len(durations) != 1:
        raise InputError(
            f"{path}: has {len(durations)} operations {durations_op} where a voice has one for the "
            "durations; give a voice of the kind that the engine speaks with"
        )
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(durations[0].output[0], onnx.TensorProto.FLOAT, None)
    )
    _stretch(model.graph, durations[0])
    noises = _noise_as_input(model.graph)
    options = onnxruntime.SessionOptions()
    # Every core makes clips of its own (see `clips`): two for one would wait for each other.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # its warnings are of the optimiser, of no use to a user
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers), noises


def _stretch(graph: Any, durations: Any) -> None:
    """Multiplies durations by the input `STRETCH` before the operation that rounds them."""
    from onnx import TensorProto, helper

    graph.input.append(helper.make_tensor_value_info(STRETCH, TensorProto.FLOAT, [None]))
    stretched = helper.make_node("Mul", [durations.input[0], STRETCH], [f"{STRETCH}ed"])
    durations.input[0] = stretched.output[0]
    graph.node.insert(list(graph.node).index(durations), stretched)


def timing(symbols: Sequence[Symbol], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """How much each symbol is drawn out, float32 [symbols]: each word and each pause by its own."""
    drawn: dict[int, float] = {}
    stretch = []
    before = None
    for _, character in symbols:
        if character == NO_WORD and before != NO_WORD:
            drawn[NO_WORD] = rng.lognormal(0.0, _PAUSES_VARY)
        elif character not in drawn:
            drawn[character] = rng.lognormal(0.0, _WORDS_VARY)
        stretch.append(drawn[character])
        before = character
    return np.array(stretch, np.float32)


def _noise_as_input(graph: Any) -> list[str]:
    """Replaces each operation that draws noise by an input cut to the same shape."""
    from onnx import TensorProto, helper

    names: list[str] = []
    nodes = []
    for node in graph.node:
        if node.op_type != "RandomNormalLike":
            nodes.append(node)
            continue
        name = f"noise_{len(names)}"
        names.append(name)
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3))
        zeros = f"{name}_start"
        graph.initializer.append(helper.make_tensor(zeros, TensorProto.INT64, [3], [0, 0, 0]))
        nodes.append(helper.make_node("Shape", [node.input[0]], [f"{name}_shape"]))
        nodes.append(helper.make_node("Slice", [name, zeros, f"{name}_shape"], [node.output[0]]))
    del graph.node[:]
    graph.node.extend(nodes)
    return names


def utterance(
    audio: npt.NDArray[np.float32],
    sample_rate_hz: int,
    symbols: Sequence[Symbol],
    frames: npt.NDArray[np.float32],
) -> Utterance:
    """An utterance from what a voice's graph returned.

    Args:
        audio: float32 [samples], any scale.
        sample_rate_hz: samples per second.
        symbols: what was said; pauses are of `NO_WORD`.
        frames: float32 [symbols], frames that each symbol lasts; all frames are equally long.
    """
    starts = (np.cumsum(frames) - frames) * len(audio) / max(1.0, float(frames.sum()))
    scaled = audio * (_PEAK * 32767 / max(1e-6, float(np.abs(audio).max())))
    phonemes = tuple(
        Phoneme(PAUSE if character == NO_WORD else name, character, round(float(start)))
        for (name, character), start in zip(symbols, starts, strict=True)
    )
    return Utterance(np.rint(scaled).astype(np.int16), phonemes, sample_rate_hz)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return files.sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
