"""Who speaks: the voices of a synthesised corpus, and the split of each.

A voice is an accent of English crossed with a variant (a vocal tract), as `en-us+f3`. All voices of
a variant's family share a split, so that validation and test have vocal tracts that training does
not.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from wakeword_keras.names import SPLITS, TEST, TRAIN, VALIDATION

SHARES = {TRAIN: 0.7, VALIDATION: 0.15, TEST: 0.15}  # of the voices and clips
# fmt: off
ACCENTS = (
    "en-us", "en", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc", "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
# espeak's variants less the robots, monsters and near-unintelligible ones. Marco and Alicia speak
# 1.3 to 1.5 times slower than all others at the same rate, and would dictate clip_ms.
VARIANTS = (
    "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex",
    "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky",
    "Lee", "Mario", "Michael", "Mike", "Nguyen", "Reed", "adam", "anika", "announcer", "antonio",
    "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "edward2",
    "grandma", "grandpa", "gustave", "ian", "iven", "iven2", "iven3", "iven4", "john",
    "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4", "linda", "marcelo", "max", "michel",
    "miguel", "mike2", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro",
    "shelby", "steph", "steph2", "steph3", "travis", "victor", "whisper", "whisperf", "zac",
)
# fmt: on


def choose_voices(count: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Voices of each split, about 70, 15 and 15 %; no variant's family is in two splits.

    Args:
        count: voices in all, 3 to len(ACCENTS) * len(VARIANTS).
        seed: of the choice.

    Returns:
        Voices by split, no voice twice.
    """
    rng = np.random.default_rng(seed)
    variants = _families_in_turn(rng.permutation(VARIANTS).tolist())
    accents = rng.permutation(ACCENTS).tolist()
    # Each round through the variants gives every variant its next accent.
    rounds = [divmod(k, len(variants)) for k in range(count)]
    chosen = [(variants[place], accents[(place + turn) % len(ACCENTS)]) for turn, place in rounds]
    split_of = _split_families(Counter(_family(variant) for variant, _ in chosen))
    voices: dict[str, list[str]] = {split: [] for split in SPLITS}
    for variant, accent in chosen:
        voices[split_of[_family(variant)]].append(f"{accent}+{variant}")
    return {split: tuple(names) for split, names in voices.items()}


def _family(variant: str) -> str:
    """Variants that are one speaker retouched, as Gene and Gene2; m1 and m2 are two."""
    name = variant.lower()
    return name if len(name) == 2 else name.rstrip("0123456789f")


def _families_in_turn(variants: Sequence[str]) -> list[str]:
    """One variant of each family, then a second one: the first three are three families."""
    families: dict[str, list[str]] = defaultdict(list)
    for variant in variants:
        families[_family(variant)].append(variant)
    depth = max(len(members) for members in families.values())
    return [m[k] for k in range(depth) for m in families.values() if k < len(m)]


def _split_families(sizes: Mapping[str, int]) -> dict[str, str]:
    """The split of each family: one that has none yet, then the one furthest behind its share."""
    split_of: dict[str, str] = {}
    taken = dict.fromkeys(SPLITS, 0)
    for family, size in sizes.items():
        split = min(SPLITS, key=lambda s: taken[s] / SHARES[s])
        split_of[family] = split
        taken[split] += size
    return split_of
