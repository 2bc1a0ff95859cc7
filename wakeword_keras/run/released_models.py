"""Released models of ESPHome's form on recordings, in one table with a run's INT8 model."""

from collections.abc import Sequence
from pathlib import Path

from wakeword_keras.audio import audio_file
from wakeword_keras.data import ambient
from wakeword_keras.data.corpus import Corpus, CorpusConfig, read_corpus
from wakeword_keras.data.shards import Shards, write_shards
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import side_by_side, stream_evaluation
from wakeword_keras.evaluation.run_models import stream_settings
from wakeword_keras.evaluation.side_by_side import Row
from wakeword_keras.files import write_json
from wakeword_keras.firmware.esphome_manifest import EsphomeModel
from wakeword_keras.names import INT8, TEST
from wakeword_keras.progress import say
from wakeword_keras.run import other_recordings, pipeline
from wakeword_keras.run.config import RunConfig
from wakeword_keras.streams import scoring
from wakeword_keras.streams.scoring import SplitAudio


def evaluate(
    released: Sequence[EsphomeModel],
    config: CorpusConfig,
    data_dirs: Sequence[str],
    ambient_dirs: Sequence[str],
    cache_dir: str,
) -> list[Row]:
    """Measure models on recordings, without a run.

    Args:
      released: from `esphome_manifest.read`.
      config: wake words and length of the clips.
      data_dirs: folders of recordings of the wake words and of others; none: misses are not
        measured.
      ambient_dirs: folders of long recordings without a wake word.
      cache_dir: takes the clips.

    Raises:
      InputError: there are no ambient recordings, or a folder, a file or a model is wrong.
    """
    if not ambient_dirs:
        raise InputError("`ambient_dir`: give long recordings without the wake word")
    corpus = (
        read_corpus(data_dirs, config, only=TEST)
        if data_dirs
        else Corpus(config.wake_words, (), "", (), {})
    )
    corpus = ambient.join_test(corpus, ambient_dirs, config)
    for message in corpus.messages:
        say(message)
    streams = ambient.of_split(corpus.streams, TEST)
    return _rows(released, SplitAudio(_shards(corpus, config, cache_dir), TEST, streams))


def _shards(corpus: Corpus, config: CorpusConfig, cache_dir: str) -> Shards:
    if corpus.clips:
        return write_shards(corpus, config.clip_ms, cache_dir)
    samples = config.clip_ms * audio_file.SAMPLE_RATE_HZ // 1000
    return Shards(Path(cache_dir), config.wake_words, samples, {TEST: ()})


def evaluate_beside(
    config: RunConfig,
    released: Sequence[EsphomeModel],
    data_dirs: Sequence[str],
    ambient_dirs: Sequence[str],
) -> list[Row]:
    """Measure models beside a run's INT8 model, each on the same streams and wake words.

    Args:
      config: of the finished run.
      released: from `esphome_manifest.read`.
      data_dirs, ambient_dirs: other recordings, both; the run's own test split if both are empty.

    Raises:
      InputError: the run is not finished or has no threshold for streams, only one kind of
        recordings is given, or a folder, a file or a model is wrong.
    """
    if bool(data_dirs) != bool(ambient_dirs):
        raise InputError("`data_dir` and `ambient_dir`: give both, or none for the run's own test")
    if data_dirs:
        run, _, data, models = other_recordings.gather(config, data_dirs, ambient_dirs)
    else:
        run, shards, models = pipeline.open_finished(config)
        data = pipeline.held_out(run, config, shards)
    chosen = pipeline.open_thresholds(config).streams
    if not chosen:
        raise InputError(
            f"{config.run_dir} has no threshold for streams: train a run with `ambient_dir`"
        )
    audio, settings = data.split_audio(TEST), stream_settings(models, data)
    listening = {
        INT8: scoring.open_models(models.exported, models.streaming)[INT8],
    }
    own = stream_evaluation.evaluate(
        chosen, audio, listening, settings, config.max_false_accepts_per_hour
    ).models[INT8]
    row = side_by_side.run_row(run.directory.name, own, settings.config)
    return [row, *_rows(released, audio)]


def _rows(released: Sequence[EsphomeModel], audio: SplitAudio) -> list[Row]:
    return [side_by_side.esphome_row(model.path.stem, model, audio) for model in released]


def write(rows: Sequence[Row], out_dir: str) -> None:
    """Print the table; write models.json where a folder is given."""
    say(side_by_side.table(rows))
    if out_dir:
        write_json(Path(out_dir, "models.json"), side_by_side.to_json(rows))
