"""Recordings and ambient audio of some seconds, made of noise and tones."""

import numpy as np
import soundfile

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
