"""What a run is made from: gathered once, and never other recordings than those afterwards."""

from dataclasses import asdict
from pathlib import Path

from wakeword_keras import json_file
from wakeword_keras.audio.audio_file import fingerprint
from wakeword_keras.data import ambient, feature_sets
from wakeword_keras.data.corpus import Corpus, read_corpus
from wakeword_keras.data.recordings import list_impulse_responses
from wakeword_keras.data.shards import Shards, open_shards, write_shards
from wakeword_keras.errors import InputError
from wakeword_keras.files import write_json
from wakeword_keras.progress import say
from wakeword_keras.run import input_files
from wakeword_keras.run.config import RunConfig
from wakeword_keras.run.directory import RunDirectory
from wakeword_keras.synthesis.corpus import synthesize

_INPUT_FILES = "input_files.json"


def shards_of(run: RunDirectory, config: RunConfig) -> Shards:
    """Clips as shards; recordings are read again only where their shards are gone.

    Raises:
      InputError: recordings are missing, damaged, or not those that the run was made from.
    """
    run.once("corpus", lambda: _read_corpus(run, config))
    shards = open_shards(Path(config.cache_dir, run.record.get("shards", "")))
    if shards is None:
        corpus = gather(config)
        _check_same_recordings(run, config, corpus, _stamps(config))
        shards = write_shards(corpus, config.corpus.clip_ms, config.cache_dir)
    return shards


def check_recordings(run: RunDirectory, config: RunConfig) -> None:
    """Refuse other recordings than those of a finished corpus; a new time alone is no change.

    Raises:
      InputError: they are others, or missing or damaged.
    """
    stamps = _stamps(config)
    if stamps != _stamps_before(run):
        _check_same_recordings(run, config, gather(config), stamps)
        write_json(run.path(_INPUT_FILES), stamps)
        run.save()


def gather(config: RunConfig) -> Corpus:
    """The clips of a run: its recordings, speech synthesised for its phrase, ambient audio.

    Raises:
      InputError: recordings are missing or damaged, or the phrase cannot be synthesised.
    """
    folders = list(config.data_dir)
    if config.wake_phrase:
        key = json_file.digest([", ".join(config.wake_phrase), asdict(config.synthesis)])[:16]
        folders.append(f"{config.cache_dir}/speech-{key}")
        synthesize(config.wake_phrase, folders[-1], config.synthesis)
    corpus = read_corpus(folders, config.corpus)
    return ambient.join(corpus, config.ambient_dir, config.corpus) if config.ambient_dir else corpus


def _read_corpus(run: RunDirectory, config: RunConfig) -> None:
    stamps = _stamps(config)  # before they are read: what changes meanwhile is seen later
    corpus = gather(config)
    for message in corpus.messages:
        say(message)
    _check_same_recordings(run, config, corpus, stamps)
    write_json(run.path(_INPUT_FILES), stamps)
    json_file.write_sealed(run.path("corpus.json"), corpus.summary())
    if corpus.streams:
        contents = {piece.clip_id: corpus.contents[piece.path] for piece in corpus.streams}
        ambient.write_pieces(corpus.streams, contents, run.path("streams.json"))
    shards = write_shards(corpus, config.corpus.clip_ms, config.cache_dir)
    run.record["shards"] = shards.directory.name


def _check_same_recordings(
    run: RunDirectory, config: RunConfig, corpus: Corpus, stamps: input_files.Stamps
) -> None:
    impulse_responses = list_impulse_responses(config.impulse_response_dir)
    rooms = [fingerprint(path)[1] for path in impulse_responses]
    hashes = {
        "data_sha256": corpus.sha256,
        "impulse_responses_sha256": json_file.digest(rooms),
        "features_sha256": feature_sets.sha256(feature_sets.list_sets(config.ambient_feature_dirs)),
    }
    if any(run.record.setdefault(name, value) != value for name, value in hashes.items()):
        changes = input_files.describe_changes(_stamps_before(run) or stamps, stamps)
        raise InputError(
            f"the recordings are not those that {config.run_dir} was made from"
            f"{f' ({changes})' if changes else ''}: give another `run_dir` to train on them, "
            "or put the old ones back"
        )


def _stamps(config: RunConfig) -> input_files.Stamps:
    return input_files.stamp(
        config.data_dir,
        config.ambient_dir,
        config.impulse_response_dir,
        config.ambient_feature_dirs,
    )


def _stamps_before(run: RunDirectory) -> input_files.Stamps:
    path = run.directory / _INPUT_FILES
    return input_files.read(path) if path.exists() else {}
