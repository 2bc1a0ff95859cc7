"""The whole line, stage by stage, in a run directory; a stage that is done is not run again."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tf_keras as keras

from wakeword_keras import labels, models
from wakeword_keras.audio.audio_file import fingerprint
from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig, compute
from wakeword_keras.data import ambient
from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.data.corpus import Clip, Corpus, CorpusConfig, read_corpus
from wakeword_keras.data.recordings import list_impulse_responses
from wakeword_keras.data.shards import (
    CONDITIONS,
    Shards,
    open_shards,
    read_audio,
    read_impulse_responses,
    split_features,
    write_shards,
)
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import thresholds
from wakeword_keras.evaluation.findings import measure
from wakeword_keras.evaluation.run_models import HeldOut, RunModels, stream_settings
from wakeword_keras.evaluation.thresholds import Thresholds
from wakeword_keras.files import write_bytes, write_json
from wakeword_keras.firmware import bundle, golden_clips
from wakeword_keras.names import (
    FP32_ONNX,
    FP32_TFLITE,
    INT8,
    INT8_ONNX,
    INT8_PTQ,
    ONNX_FILES,
    ONNX_STREAMING_FILES,
    STREAMING_FILES,
    TFLITE_FILES,
    TRAIN,
    VALIDATION,
)
from wakeword_keras.onnx import streaming as onnx_streaming
from wakeword_keras.onnx import translate
from wakeword_keras.quantization import calibration, fake_quantize, finetuning, kernel_limits, proof
from wakeword_keras.report import report
from wakeword_keras.run import esphome_target, input_files
from wakeword_keras.run.directory import RunDirectory, hash_of
from wakeword_keras.synthesis.corpus import SynthesisConfig, synthesize
from wakeword_keras.synthesis.lines import SIMILAR, SPEECH
from wakeword_keras.tflite import convert, flatbuffer, streaming
from wakeword_keras.training import loop
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.loop import LossConfig, TrainConfig

# In their order, each with the file that it writes last: a stage whose file is lost is not done.
STAGES = {
    "corpus": "corpus.json",
    "fp32": "fp32/model.keras",
    "calibration": "calibration.json",
    "qat": "qat/model.weights.h5",
    "export": "export/export.json",
    "thresholds": "thresholds.json",
    "report": "report/report.json",
    "firmware": "firmware/manifest.json",
}
_INPUT_FILES = "input_files.json"
_TRANSLATED_FROM = {FP32_ONNX: FP32_TFLITE, INT8_ONNX: INT8}


TARGETS = ("tflite_micro", "esphome")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of the whole line.

    Attributes:
      run_dir: where everything of this run is written; the same directory resumes it.
      data_dir: folders of recordings, `<label>/<clips>` or with a manifest.csv; several are joined.
      wake_phrase: synthesise a corpus for these phrases, each a wake word of its own, alone or in
        addition to data_dir.
      ambient_dir: folders of long recordings, `<speaker>/.../<recording>`, in which nobody says the
        wake word (leave such files out yourself); a third of the speakers trains, the others show
        false accepts per hour.
      impulse_response_dir: folder of room impulse responses, for reverberation in training.
      cache_dir: decoded clips and features, shared by runs on the same recordings.
      model: architecture to train.
      target: what the INT8 model is bundled for: tflite_micro, or esphome beside it (a streaming
        model, such as mixed_conv_small, with one wake word).
      max_false_accepts_per_hour: false accepts per hour allowed on the validation part of
        ambient_dir; each model's operating threshold is chosen for it.
      calibration_clips: training clips whose activations set the ranges of quantization.
      seed: of everything random; another seed gives another training.
    """

    run_dir: str = "runs/wakeword"
    data_dir: tuple[str, ...] = ()
    ambient_dir: tuple[str, ...] = ()
    wake_phrase: tuple[str, ...] = ()
    impulse_response_dir: str = ""
    cache_dir: str = "runs/cache"
    model: str = "ds_cnn"
    target: str = "tflite_micro"
    max_false_accepts_per_hour: float = 0.5
    calibration_clips: int = 512
    seed: int = 1
    corpus: CorpusConfig
    synthesis: SynthesisConfig
    frontend: FrontendConfig
    augment: AugmentConfig
    data: DataConfig
    loss: LossConfig
    train: TrainConfig
    qat: finetuning.QatConfig

    def __post_init__(self) -> None:
        if self.calibration_clips < 1:
            raise InputError(f"`calibration_clips`={self.calibration_clips}: must be at least 1")
        for word in self.corpus.wake_words:
            if self.wake_phrase and labels.find(word, (SIMILAR, SPEECH)):
                raise InputError(
                    f"`wake_words`={word}: negatives of `wake_phrase` have this label; rename yours"
                )
        budget = self.max_false_accepts_per_hour
        if not 0 < budget < math.inf:
            raise InputError(f"`max_false_accepts_per_hour`={budget:g}: must be above 0")
        if self.model not in models.ARCHITECTURES:
            raise InputError(
                f"`model`={self.model}: choose one of {', '.join(models.ARCHITECTURES)}"
            )
        if self.target not in TARGETS:
            raise InputError(f"`target`={self.target}: choose one of {', '.join(TARGETS)}")
        if self.target == "esphome" and self.model not in models.STREAMING:
            raise InputError(
                f"`target`=esphome: {self.model} does not stream: choose a `model` of "
                f"{', '.join(models.STREAMING)}"
            )


def run(config: RunConfig, flagfile: str = "", again: Collection[str] = ()) -> None:
    """Run every stage that is not done yet, from recordings or a phrase to a firmware bundle.

    Args:
      config: the run. Run again with the same one after an interruption, it goes on where it was.
      flagfile: the command line's flags, kept as `run.flags` to repeat the run.
      again: stages to do again although they are done.

    Raises:
      InputError: something given is wrong: the message names it and the mend.
    """
    keras.utils.set_random_seed(config.seed)
    run = RunDirectory(config.run_dir, _settings(config), STAGES)
    run.forget(again)
    if flagfile:
        write_bytes(run.path("run.flags"), flagfile.encode())
    if run.done("corpus") and not again:
        _check_recordings(run, config)
    shards = _corpus(run, config)
    fp32 = _fp32(run, config, shards)
    calibration_set = _calibration_set(config, shards)
    qat = _qat(run, config, shards, fp32, calibration_set)
    run.once("export", lambda: _export(run, fp32, qat, calibration_set))
    run_models = _run_models(run, shards, fp32, qat, calibration_set)
    run.once("thresholds", lambda: _thresholds(run, config, shards, run_models))
    run.once("report", lambda: _report(run, config, shards, run_models))
    run.once("firmware", lambda: _firmware(run, config, shards, run_models))
    print(f"report: {run.path('report', 'report.html')}, bundle: {run.path('firmware')}/")


def open_finished(config: RunConfig) -> tuple[RunDirectory, Shards, RunModels]:
    """Open a run that is done, to measure its models on other data.

    Args:
      config: that it was made with.

    Returns:
      Its directory, its clips (read again where their cache is gone) and its models.

    Raises:
      InputError: a stage is missing, or the run is of another configuration.
    """
    run = RunDirectory(config.run_dir, _settings(config), STAGES)
    missing = [stage for stage in STAGES if not run.done(stage)]
    if missing:
        raise InputError(
            f"{config.run_dir} is not finished, {missing[0]} is not done: "
            f"repeat the command that began it (its settings: {run.path('run.flags')})"
        )
    shards = _corpus(run, config)
    fp32 = _fp32(run, config, shards)
    calibration_set = _calibration_set(config, shards)
    qat = _qat(run, config, shards, fp32, calibration_set)
    return run, shards, _run_models(run, shards, fp32, qat, calibration_set)


def open_thresholds(config: RunConfig) -> Thresholds:
    """The thresholds of a run.

    Raises:
      InputError: thresholds.json is missing or damaged.
    """
    return thresholds.read(Path(config.run_dir, "thresholds.json"))


def _run_models(
    run: RunDirectory,
    shards: Shards,
    fp32: keras.Model,
    qat: keras.Model,
    calibration_set: ClipFeatures,
) -> RunModels:
    exported = {name: run.path("export", file) for name, file in TFLITE_FILES.items()}
    streams = run.record["config"]["model"] in models.STREAMING
    stepwise = {name: run.path("export", file) for name, file in STREAMING_FILES.items()}
    translated = {name: run.path("export", file) for name, file in ONNX_FILES.items()}
    translated = {name: path for name, path in translated.items() if path.exists()}
    labels = tuple(clip.label for clip in shards.clips[TRAIN])
    return RunModels(
        fp32, qat, exported, stepwise if streams else {}, translated, calibration_set, labels
    )


def _corpus(run: RunDirectory, config: RunConfig) -> Shards:
    """Clips as shards; recordings are read again only where their shards are gone."""
    if run.done("corpus") and not open_shards(run.record["shards"]):
        run.forget(["corpus"])
    run.once("corpus", lambda: _read_corpus(run, config))
    shards = open_shards(run.record["shards"])
    assert shards is not None, "the stage has just written them"
    return shards


def _check_recordings(run: RunDirectory, config: RunConfig) -> None:
    """Refuse other recordings than those of a finished corpus; a new time alone is no change."""
    stamps = _stamps(config)
    if stamps != _stamps_before(run):
        _check_same_recordings(run, config, gather_corpus(config), stamps)
        run.save()


def _check_same_recordings(
    run: RunDirectory, config: RunConfig, corpus: Corpus, stamps: input_files.Stamps
) -> None:
    impulse_responses = list_impulse_responses(config.impulse_response_dir)
    hashes = {
        "data_sha256": corpus.sha256,
        "impulse_responses_sha256": hash_of([fingerprint(p)[1] for p in impulse_responses]),
    }
    if any(run.record.setdefault(name, value) != value for name, value in hashes.items()):
        changes = input_files.describe_changes(_stamps_before(run) or stamps, stamps)
        raise InputError(
            f"the recordings are not those that {config.run_dir} was made from"
            f"{f' ({changes})' if changes else ''}: give another `run_dir` to train on them, "
            "or put the old ones back"
        )
    write_json(run.path(_INPUT_FILES), stamps)


def _stamps(config: RunConfig) -> input_files.Stamps:
    return input_files.stamp(config.data_dir, config.ambient_dir, config.impulse_response_dir)


def _stamps_before(run: RunDirectory) -> input_files.Stamps:
    path = run.path(_INPUT_FILES)
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _read_corpus(run: RunDirectory, config: RunConfig) -> None:
    stamps = _stamps(config)  # before they are read: what changes meanwhile is seen later
    corpus = gather_corpus(config)
    for message in corpus.messages:
        print(message, flush=True)
    _check_same_recordings(run, config, corpus, stamps)
    write_json(run.path("corpus.json"), corpus.summary() | {"sha256": corpus.sha256})
    if corpus.streams:
        pieces = [asdict(p) | {"path": os.path.abspath(p.path)} for p in corpus.streams]
        write_json(run.path("streams.json"), {"pieces": pieces})
    shards = write_shards(corpus, config.corpus.clip_ms, config.cache_dir)
    run.record["shards"] = str(shards.directory)


def gather_corpus(config: RunConfig) -> Corpus:
    """The clips of a run: its recordings, speech synthesised for its phrase, ambient audio."""
    folders = list(config.data_dir)
    if config.wake_phrase:
        key = hash_of([", ".join(config.wake_phrase), asdict(config.synthesis)])[:16]
        folders.append(f"{config.cache_dir}/speech-{key}")
        synthesize(config.wake_phrase, folders[-1], config.synthesis)
    corpus = read_corpus(folders, config.corpus)
    return ambient.join(corpus, config.ambient_dir, config.corpus) if config.ambient_dir else corpus


def _training_data(config: RunConfig, shards: Shards) -> loop.TrainingData:
    validation = tuple(
        split_features(shards, VALIDATION, config.frontend, condition) for condition in CONDITIONS
    )
    return loop.TrainingData(
        shards,
        validation,
        config.frontend,
        config.augment,
        config.data,
        config.seed,
        read_impulse_responses(config.impulse_response_dir, config.augment.rooms, config.seed),
    )


def _fp32(run: RunDirectory, config: RunConfig, shards: Shards) -> keras.Model:
    run.once("fp32", lambda: _train(run, config, shards))
    return keras.models.load_model(run.path("fp32", "model.keras"), compile=False)


def _train(run: RunDirectory, config: RunConfig, shards: Shards) -> None:
    path = run.path("fp32", "model.keras")
    frames = config.frontend.num_frames(shards.clip_samples)
    if config.model in models.STREAMING:
        shape = config.frontend.channels, len(shards.wake_words)
        print(models.describe(config.model, *shape), flush=True)
    model = models.build(config.model, frames, config.frontend.channels, len(shards.wake_words))
    loop.train(model, _training_data(config, shards), config.loss, config.train, path.parent)
    partial = path.with_suffix(".partial.keras")
    model.save(partial)
    os.replace(partial, path)


def _calibration_set(config: RunConfig, shards: Shards) -> ClipFeatures:
    """Features of a stratified choice of training clips."""
    clips = shards.clips[TRAIN]
    chosen = calibration.choose_clips(
        [clip.label for clip in clips], config.calibration_clips, config.seed
    )
    wanted = set(chosen.tolist())
    audio = (clip for i, clip in enumerate(read_audio(shards, TRAIN)) if i in wanted)
    features = np.concatenate([compute(clip[None], config.frontend) for clip in audio])
    return ClipFeatures(tuple(clips[i] for i in chosen), features)


def _qat(
    run: RunDirectory,
    config: RunConfig,
    shards: Shards,
    fp32: keras.Model,
    calibration_set: ClipFeatures,
) -> keras.Model:
    qat = fake_quantize.quantize(fp32, config.frontend.input_affine)
    if not run.done("qat"):
        run.forget(["calibration"])  # QAT starts from ranges that lie in memory alone
    run.once("calibration", lambda: _calibrate(run, qat, fp32, calibration_set))
    run.once("qat", lambda: _finetune(run, config, shards, fp32, qat))
    qat.load_weights(run.path("qat", "model.weights.h5"))
    return qat


def _calibrate(
    run: RunDirectory,
    qat: keras.Model,
    fp32: keras.Model,
    calibration_set: ClipFeatures,
) -> None:
    ranges = calibration.calibrate(qat, fp32, calibration_set.features)
    kernel_limits.check_biases(qat, fp32)  # not only after fine-tuning
    write_json(run.path("calibration.json"), _calibration_record(calibration_set, ranges))


def _finetune(
    run: RunDirectory, config: RunConfig, shards: Shards, fp32: keras.Model, qat: keras.Model
) -> None:
    weights = run.path("qat", "model.weights.h5")
    data = _training_data(config, shards)
    finetuning.finetune(qat, fp32, data, config.loss, config.qat, weights.parent)
    partial = weights.with_name("partial.weights.h5")
    qat.save_weights(partial)
    os.replace(partial, weights)


def _calibration_record(
    calibration_set: ClipFeatures, ranges: list[calibration.ActivationRange]
) -> dict:
    labels, counts = np.unique([clip.label for clip in calibration_set.clips], return_counts=True)
    return {
        "split": "train",
        "clips": len(calibration_set),
        "clips_by_label": dict(zip(labels.tolist(), counts.tolist(), strict=True)),
        "sha256": calibration.sha256(calibration_set),
        "activations": [asdict(activation) for activation in ranges],
        "clip_ids": [clip.clip_id for clip in calibration_set.clips],
    }


def _export(
    run: RunDirectory,
    fp32: keras.Model,
    qat: keras.Model,
    calibration_set: ClipFeatures,
) -> None:
    dataset_fn = calibration.representative_dataset(calibration_set.features)
    converters: dict[str, Callable[[], bytes]] = {
        FP32_TFLITE: lambda: convert.float_model(fp32),
        INT8_PTQ: lambda: convert.int8_model(fp32, dataset_fn),
        INT8: lambda: proof.int8_model(qat, fp32, calibration_set.features),
    }
    for name, converted in converters.items():
        write_bytes(run.path("export", TFLITE_FILES[name]), converted())
    _export_streaming(run, calibration_set)
    _export_onnx(run, calibration_set)
    write_json(run.path("export", "export.json"), _export_record(run))


def _export_streaming(run: RunDirectory, calibration_set: ClipFeatures) -> None:
    """Models that can run step by step, too, proven on calibration clips."""
    if run.record["config"]["model"] not in models.STREAMING:
        return
    for name, file in STREAMING_FILES.items():
        window = run.path("export", TFLITE_FILES[name])
        content = streaming.to_bytes(streaming.stream(window))
        streaming.verify(window, content, calibration_set.features[:16])
        write_bytes(run.path("export", file), content)


def _export_onnx(run: RunDirectory, calibration_set: ClipFeatures) -> None:
    if not translate.installed():
        print(
            "ONNX: not exported: pip install 'wakeword_keras[onnx]', then export again", flush=True
        )
        return
    for name, source in _TRANSLATED_FROM.items():
        content = translate.from_tflite(run.path("export", TFLITE_FILES[source]))
        write_bytes(run.path("export", ONNX_FILES[name]), content)
        if run.record["config"]["model"] in models.STREAMING:
            _export_streaming_onnx(run, name, calibration_set)


def _export_streaming_onnx(run: RunDirectory, name: str, calibration_set: ClipFeatures) -> None:
    """With states as inputs and outputs, proven on calibration clips."""
    window = run.path("export", TFLITE_FILES[_TRANSLATED_FROM[name]])
    path = run.path("export", ONNX_STREAMING_FILES[name])
    write_bytes(path, onnx_streaming.from_tflite(window))
    features = calibration_set.features[:16]
    onnx_streaming.verify(window, run.path("export", ONNX_FILES[name]), path, features)


def _export_record(run: RunDirectory) -> dict:
    """What each exported file is made of, and the weights that the INT8 one came from."""
    files = {}
    for name, file in TFLITE_FILES.items():
        path = run.path("export", file)
        files[file] = {
            "model": name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
            "operators": flatbuffer.operators(path),
            "tensors": {kind: len(names) for kind, names in flatbuffer.tensor_types(path).items()},
        }
    weights = run.path("qat", "model.weights.h5").read_bytes()
    return {"files": files, "qat_weights_sha256": hashlib.sha256(weights).hexdigest()}


def held_out(run: RunDirectory, config: RunConfig, shards: Shards) -> HeldOut:
    """What a run is measured on: its validation and test splits."""
    pieces: list[Clip] = []
    if config.ambient_dir:
        recorded = json.loads(run.path("streams.json").read_text())["pieces"]
        pieces = [Clip(**piece) for piece in recorded]
    return HeldOut(shards, config.frontend, pieces, config.max_false_accepts_per_hour)


def _thresholds(
    run: RunDirectory, config: RunConfig, shards: Shards, run_models: RunModels
) -> None:
    chosen = thresholds.choose(run_models, held_out(run, config, shards))
    thresholds.write(chosen, run.path("thresholds.json"))


def _report(run: RunDirectory, config: RunConfig, shards: Shards, run_models: RunModels) -> None:
    data = held_out(run, config, shards)
    report.write(measure(run_models, data, open_thresholds(config)), run.directory)


def _firmware(run: RunDirectory, config: RunConfig, shards: Shards, run_models: RunModels) -> None:
    chosen = open_thresholds(config)
    data = held_out(run, config, shards)
    model = run.path("export", TFLITE_FILES["int8"])
    missing = bundle.write_bundle(
        model,
        run.path("firmware"),
        wake_words=shards.wake_words,
        frontend=config.frontend,
        clip_ms=config.corpus.clip_ms,
        threshold_logit=chosen.clips.logits[INT8],
        stream_sum=chosen.streams[INT8].threshold.sum if chosen.streams else None,
        listening=stream_settings(run_models, data).config,
        hashes={
            "corpus": run.record["data_sha256"],
            "config": hash_of(run.record["config"]),
        },
        golden_clips=golden_clips.choose(shards, config.frontend, model),
        streaming_path=run_models.streaming.get(INT8),
    )
    for line in missing:
        print(f"bundle: {line}", flush=True)
    if config.target == "esphome":
        stream = chosen.streams.get(INT8)
        esphome_target.write(
            run.path("export", TFLITE_FILES[INT8]),
            run.path("esphome"),
            data,
            stream.threshold.logit if stream else chosen.clips.logits[INT8],
            shards.wake_words[0],
        )


def _settings(config: RunConfig) -> dict:
    """Every setting that decides what a run computes, by "name" or "part.name", as JSON has it."""
    settings: dict[str, object] = {}
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{field}": setting for field, setting in value.items()}
        elif name not in ("run_dir", "cache_dir"):
            settings[name] = value
    return json.loads(json.dumps(settings))
