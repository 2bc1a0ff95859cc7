"""A thin ctypes binding to espeak-ng: text in, samples and the time of every phoneme out.

The library and its data come with the wheel `espeakng-loader`; no system package is needed. The
names, numbers and structures below are those of `speak_lib.h`, espeak-ng 1.52.

espeak-ng keeps its state (wave phase, random generator, echo buffer) in static variables that
`espeak_Terminate` does not reset: the same text spoken twice gives different samples. So every
`Espeak` loads its own private copy of the library, whose state starts anew, in 2 ms; two of them
that are asked the same things in the same order answer with the same bytes.
"""

import _ctypes
import ctypes
import importlib.util
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wakeword_keras.errors import InputError

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS, _INITIALIZE_DONT_EXIT = 0x0001, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_CHARS_UTF8, _PHONEMES = 0x0001, 0x0100
_POS_CHARACTER = 1
_IPA, _SEPARATED = 0x02, ord("_") << 8
_EVENT_LIST_END, _EVENT_PHONEME = 0, 7
RATES_WPM = (80, 450)  # that it can speak at
if sys.platform == "win32":
    _unload = _ctypes.FreeLibrary
else:
    _unload = _ctypes.dlclose


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Phoneme:
    """One phoneme of an utterance.

    Attributes:
        name: espeak's mnemonic; one that starts with `_` is a pause.
        character: index of the first character of the word it belongs to.
        sample: index of its first sample.
    """

    name: str
    character: int
    sample: int


@dataclass(frozen=True)
class Utterance:
    """What was spoken: int16 samples, its phonemes in order, samples per second."""

    audio: npt.NDArray[np.int16]
    phonemes: tuple[Phoneme, ...]
    sample_rate_hz: int

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Samples taken by the words that start at characters `first` to `last` - 1 of the text.

        Returns:
            First sample and the one after the last; pauses around the words are not counted.
            (0, 0) if nothing is spoken there.
        """
        ends = [p.sample for p in self.phonemes[1:]] + [len(self.audio)]
        inside = [
            (p.sample, end)
            for p, end in zip(self.phonemes, ends, strict=True)
            if first <= p.character < last and not p.name.startswith("_")
        ]
        return (inside[0][0], inside[-1][1]) if inside else (0, 0)


class Espeak:
    """A private copy of espeak-ng, of which any number may speak at once.

    Any thread may ask, one waits for the other.

    Args:
        seed: of espeak's random generator (breath, flutter), 0 to 2**31 - 1.

    Raises:
        InputError: the wheel espeakng-loader is not installed.
    """

    def __init__(self, seed: int = 0) -> None:
        if importlib.util.find_spec("espeakng_loader") is None:
            raise InputError(
                "espeakng-loader is not installed, and synthesis speaks with it: "
                "pip install 'wakeword_keras[tts]'"
            )
        import espeakng_loader

        library = Path(espeakng_loader.get_library_path())
        # The system may refuse to delete a loaded library (Windows); it is then left to the
        # system's own cleaning of temporary files.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self._library = ctypes.CDLL(shutil.copy(library, folder))
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.sample_rate_hz: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS,
            0,
            espeakng_loader.get_data_path().encode(),
            _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT,
        )
        if self.sample_rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start (error {self.sample_rate_hz})")
        self._library.espeak_ng_SetRandSeed(ctypes.c_uint(seed))
        self._lock = threading.Lock()
        self._blocks: list[npt.NDArray[np.int16]] = []
        self._phonemes: list[Phoneme] = []
        self._voice = ""
        # ctypes does not keep a callback alive, this attribute does.
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def close(self) -> None:
        """Frees the 2 MB that the copy takes; it cannot be asked any more."""
        self._library.espeak_Terminate()
        _unload(self._library._handle)

    def _receive(self, samples, num_samples: int, events) -> int:
        if samples and num_samples > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        i = 0
        while events[i].type != _EVENT_LIST_END:
            if events[i].type == _EVENT_PHONEME:
                name = events[i].name.decode(errors="replace")
                self._phonemes.append(Phoneme(name, events[i].text_position - 1, events[i].sample))
            i += 1
        return 0

    def _use_voice(self, voice: str) -> None:
        if voice == self._voice:
            return
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"espeak-ng has no voice {voice!r}; one it has is 'en-us+f3'")
        self._voice = voice

    def say(
        self, text: str, voice: str, *, rate_wpm: int = 175, pitch: int = 50, pitch_range: int = 50
    ) -> Utterance:
        """Speaks a text.

        Args:
            text: words, or espeak mnemonics as `[[h@l'oU]]`.
            voice: language and variant, as `en-us+f3`.
            rate_wpm: words per minute, 80 to 450.
            pitch: 0 to 100; 50 is the voice's own.
            pitch_range: 0 (monotone) to 100; 50 is the voice's own.

        Returns:
            The utterance; no samples if there is nothing to pronounce.
        """
        with self._lock:
            return self._say(text, voice, rate_wpm, pitch, pitch_range)

    def _say(self, text: str, voice: str, rate_wpm: int, pitch: int, pitch_range: int) -> Utterance:
        self._use_voice(voice)
        for parameter, value in ((_RATE, rate_wpm), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._phonemes = [], []
        data = text.encode() + b"\0"
        flags = _CHARS_UTF8 | _PHONEMES
        status = self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data)), 0, _POS_CHARACTER, 0, flags, None, None
        )
        if status != 0:
            raise RuntimeError(f"espeak-ng could not speak {text!r} (error {status})")
        audio = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        return Utterance(audio, tuple(self._phonemes), self.sample_rate_hz)

    def phonemes(self, text: str, voice: str = "en-us", *, ipa: bool = True) -> tuple[str, ...]:
        """Phonemes of a text in a voice's accent, stress marks included.

        Args:
            text: words.
            voice: as for `say`.
            ipa: symbols of the International Phonetic Alphabet; else espeak's ASCII mnemonics.
        """
        with self._lock:
            self._use_voice(voice)
            pointer = ctypes.c_char_p(text.encode())
            mode = _SEPARATED | (_IPA if ipa else 0)
            clauses = []
            # A call translates one clause; stopping early would leave the rest to the next text.
            while pointer.value is not None:
                clause = self._library.espeak_TextToPhonemes(
                    ctypes.byref(pointer), _CHARS_UTF8, mode
                )
                clauses.append(clause.decode() if clause else "")
        return tuple(part for part in "_".join(clauses).replace(" ", "_").split("_") if part)
