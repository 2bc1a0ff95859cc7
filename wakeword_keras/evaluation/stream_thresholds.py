"""The thresholds that models decide streams with, chosen on validation streams under a budget."""

from collections.abc import Mapping
from dataclasses import dataclass

from wakeword_keras.streams import scoring
from wakeword_keras.streams.scoring import SplitAudio, StreamModel, StreamSettings
from wakeword_keras.streams.stream_metrics import (
    StreamMetrics,
    StreamThreshold,
    allowed_events,
    choose_threshold,
    measure,
)

# Thresholds with more false accepts than that are of no use to anybody.
USEFUL_PER_HOUR = 60.0


@dataclass(frozen=True)
class StreamChoice:
    """What validation streams decided for a model, and what scoring them took.

    Attributes:
      threshold: for the budget.
      validation: the model at this threshold on the validation streams.
      streams: so many.
      windows, rescored: scored in all, and by the exact kernels.
      largest_difference_lsb: between both kernels on these.
    """

    threshold: StreamThreshold
    validation: StreamMetrics
    streams: int
    windows: int
    rescored: int
    largest_difference_lsb: float


def choose(
    validation: SplitAudio,
    models: Mapping[str, StreamModel],
    settings: StreamSettings,
    max_false_accepts_per_hour: float,
) -> dict[str, StreamChoice]:
    """Choose every model's threshold.

    Args:
      validation: streams, and the wake words to miss.
      models: by name.
      settings: front end and times.
      max_false_accepts_per_hour: budget, > 0.

    Returns:
      StreamChoice by model name.

    Raises:
      InputError: streams are shorter than a window, or a recording is gone.
      ValueError: a model gives NaN or infinity.
    """
    most = allowed_events(max_false_accepts_per_hour, validation.hours)
    scored = scoring.score(validation, models, settings, most_useful(validation.hours, most), most)
    chosen = {}
    for name, tracks in scored.items():
        threshold = choose_threshold(tracks, most, settings.config, models[name].output)
        chosen[name] = StreamChoice(
            threshold,
            measure(tracks, threshold.sum, validation, settings.config),
            len(validation.streams),
            tracks.windows,
            tracks.rescored,
            tracks.largest_difference_lsb or 0.0,
        )
    return chosen


def most_useful(hours: float, allowed: int) -> float:
    """False accepts in so many hours beyond which a threshold is of no use, `allowed` in mind."""
    return max(USEFUL_PER_HOUR * hours, 4 * allowed + 20)
