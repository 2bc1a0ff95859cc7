"""What to synthesise."""

from dataclasses import dataclass

from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.errors import InputError
from wakeword_keras.names import TRAIN, VALIDATION
from wakeword_keras.synthesis.engines import ENGINES
from wakeword_keras.synthesis.voices import SHARES


@dataclass(frozen=True)
class SynthesisConfig:
    """What to synthesise.

    Attributes:
        clip_ms: length of a clip in milliseconds; a positive holds the whole phrase.
        engines: who speaks, of espeak, piper and kokoro; of several, the last speaks validation
            and test, and the others take turns in training.
        piper_voices: voice files for piper, `.onnx` with `.onnx.json` beside it, of one speaker or
            of many; without any, the voice that pip brings.
        kokoro_styles_dir: folder of style files for kokoro, `.bin`, such as `voices` of the npm
            package kokoro-js, which has 54; without, the five Japanese ones that pip brings.
        voices: voices of each engine, 3 or more; espeak and kokoro have 640 speakers, piper has
            as many as its files. Where speakers are few, each has several voices, which differ in
            accent and by what the next two say.
        pitch_low_hz: lowest pitch that a voice is moved to, in Hz; 0 leaves every voice its own.
        pitch_high_hz: highest pitch that a voice is moved to, in Hz.
        formant_percent: how far the resonances of a voice's vocal tract are moved at most, either
            way, in percent, beside following its pitch a little.
        phrase_end_ms: the phrase, or what sounds like it, ends at most so many milliseconds before
            its clip does, as when a device hears it; 0 for anywhere.
        positives: clips of each wake phrase over all splits, at least 3 as for all counts.
        similar: clips that sound like one of them.
        speech: clips of other words and sentences.
        noise: clips' worth of noise, in recordings of up to 8 clips.
        silence: clips of next to nothing.
        seed: of every random choice; the same seed gives the same bytes.

    Raises:
        InputError: a value out of its range.
    """

    clip_ms: int = 1500
    engines: tuple[str, ...] = ("espeak",)
    piper_voices: tuple[str, ...] = ()
    kokoro_styles_dir: str = ""
    voices: int = 160
    pitch_low_hz: float = 85.0
    pitch_high_hz: float = 300.0
    formant_percent: float = 15.0
    phrase_end_ms: int = 300
    positives: int = 1200
    similar: int = 900
    speech: int = 1000
    noise: int = 400
    silence: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {"clip_ms": (200, 10_000)}
        limits |= {"pitch_low_hz": (0, self.pitch_high_hz), "pitch_high_hz": (60, 500)}
        limits |= {"formant_percent": (0, 40)}
        limits |= {"phrase_end_ms": (0, 10_000)}
        limits |= {name: (3, 1_000_000) for name in ("voices", *self.counts)}
        limits["seed"] = (0, 2**31 - 1)
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"`synthesis.{name}`={value}: must be {low} to {high}")
        named = set(self.engines) & set(ENGINES)
        if not self.engines or len(self.engines) != len(named):
            raise InputError(
                f"`synthesis.engines`={','.join(self.engines)}: must be one or more of "
                f"{', '.join(ENGINES)}, each once"
            )
        for name, engine in (("piper_voices", "piper"), ("kokoro_styles_dir", "kokoro")):
            if getattr(self, name) and engine not in self.engines:
                raise InputError(
                    f"`synthesis.{name}`: only {engine} speaks with them; name it in "
                    "`synthesis.engines`, too"
                )

    @property
    def counts(self) -> dict[str, int]:
        """Clips of each kind over all splits."""
        kinds = ("positives", "similar", "speech", "noise", "silence")
        return {kind: getattr(self, kind) for kind in kinds}

    def counts_of(self, split: str) -> dict[str, int]:
        """Clips of each kind in a split."""
        held_out = {kind: max(1, round(n * SHARES[VALIDATION])) for kind, n in self.counts.items()}
        if split != TRAIN:
            return held_out
        return {kind: n - 2 * held_out[kind] for kind, n in self.counts.items()}

    @property
    def clip_samples(self) -> int:
        """Length of a clip in samples at 16 kHz."""
        return self.clip_ms * SAMPLE_RATE_HZ // 1000
