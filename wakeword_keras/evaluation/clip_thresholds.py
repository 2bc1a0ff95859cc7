"""The thresholds that models decide single clips with, chosen on validation clips.

At a threshold 1 % of the validation clips without a wake word fire: it is the mean of where they do
over a bootstrap of validation speakers (Breiman 1996, Bagging Predictors). One per cent of a few
hundred clips are a handful, and where they alone put it hangs on one of them: two models whose
logits differ by a step would decide differently for every clip between that one and the next. How
far it shifts from a model to a later one has a 95 % interval, both models on the same draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wakeword_keras.errors import InputError
from wakeword_keras.evaluation.scores import FALSE_POSITIVE_RATE, Interval, Scores, resample
from wakeword_keras.metrics import detection, intervals
from wakeword_keras.names import FP32, INT8, INT8_PTQ, QAT

STEPS = ((FP32, QAT), (QAT, INT8), (FP32, INT8), (FP32, INT8_PTQ))
"""From which model to which; named "fp32_to_qat" and so on."""


@dataclass(frozen=True)
class ClipThresholds:
    """What validation clips decided.

    Attributes:
      logits: threshold of every model.
      shift_ci95: interval of the later threshold minus the earlier, by step.
      positives, negatives: validation clips.
    """

    logits: Mapping[str, float]
    shift_ci95: Mapping[str, Interval]
    positives: int
    negatives: int


def choose(validation: Scores, wake_words: Sequence[str]) -> ClipThresholds:
    """Choose every model's threshold.

    Args:
      validation: scores of clips with and without a wake word.
      wake_words: names, for messages.

    Returns:
      ClipThresholds.

    Raises:
      InputError: there are no clips of a wake word or none without.
    """
    positive = validation.targets >= 0
    if not positive.any():
        raise InputError(
            f"the validation split has no clip of {', '.join(wake_words)}: add speakers"
        )
    if positive.all():
        raise InputError("the validation split has no clip without a wake word: add negatives")
    _, resamples = resample(validation)
    chosen, drawn = {}, {}
    for name, logits in validation.logits.items():
        scores = logits.max(axis=1)
        drawn[name] = detection.resampled_thresholds(
            scores, positive, FALSE_POSITIVE_RATE, resamples
        )
        chosen[name] = detection.midway(scores, float(np.nanmean(drawn[name])))
    return ClipThresholds(
        chosen,
        {
            f"{before}_to_{after}": intervals.percentile_interval(drawn[after] - drawn[before])
            for before, after in STEPS
            if before in drawn and after in drawn
        },
        int(np.count_nonzero(positive)),
        int(np.count_nonzero(~positive)),
    )
