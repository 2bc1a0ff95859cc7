"""The whole line, stage by stage, in a run directory; a stage that is done is not run again."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import tf_keras as keras

from wakeword_keras import json_file, models
from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.data.shards import (
    CONDITIONS,
    Shards,
    read_impulse_responses,
    split_features,
)
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import thresholds
from wakeword_keras.evaluation.findings import measure
from wakeword_keras.evaluation.run_models import HeldOut, RunModels, stream_settings
from wakeword_keras.evaluation.thresholds import Thresholds
from wakeword_keras.files import sha256, write_bytes
from wakeword_keras.firmware import bundle, golden_clips
from wakeword_keras.names import (
    AMBIENT,
    INT8,
    ONNX_FILES,
    ONNX_STREAMING_FILES,
    STREAMING_FILES,
    TFLITE_FILES,
    TRAIN,
    VALIDATION,
)
from wakeword_keras.progress import say
from wakeword_keras.quantization import fake_quantize, finetuning
from wakeword_keras.report import report
from wakeword_keras.run import ambient_audio, calibration_stage, corpus, esphome_target, exports
from wakeword_keras.run.config import RunConfig, settings_of
from wakeword_keras.run.directory import FILE, RunDirectory, locked
from wakeword_keras.training import batches, fp32_stage, loop, weights
from wakeword_keras.training.negatives import Negatives
from wakeword_keras.training.workers import ALONE, Workers, join

# In their order, each with the files that are read later: a stage that lacks one is not done.
STAGES = {
    "corpus": ("corpus.json", "streams.json"),
    "fp32": ("fp32/weights.npz", "fp32/history.csv", f"fp32/{loop.HARD_NEGATIVES}"),
    "calibration": ("calibration.json",),
    "qat": ("qat/weights.npz", "qat/history.csv", f"qat/{loop.HARD_NEGATIVES}"),
    "export": tuple(
        f"export/{file}"
        for file in (
            "export.json",
            *TFLITE_FILES.values(),
            *STREAMING_FILES.values(),
            *ONNX_FILES.values(),
            *ONNX_STREAMING_FILES.values(),
        )
    ),
    "thresholds": ("thresholds.json",),
    "report": ("report/report.json",),
    "firmware": ("firmware/manifest.json",),
}


def run(config: RunConfig, flagfile: str = "") -> None:
    """Run every stage that is not done yet, from recordings or a phrase to a firmware bundle.

    Args:
      config: the run. Run again with the same one after an interruption, it goes on where it was.
      flagfile: the command line's flags, kept as `run.flags` to repeat the run.

    Raises:
      InputError: something given is wrong: the message names it and the mend.
    """
    workers = join(config.strategy)
    if config.data.batch % workers.replicas:
        raise InputError(
            f"`batch`={config.data.batch}: must be a multiple of the {workers.replicas} devices "
            "that share it"
        )
    with workers.together():
        if not workers.is_chief:
            _follow(config, workers)
            return
        with locked(config.run_dir):
            run = RunDirectory(config.run_dir, settings_of(config), STAGES)
            if flagfile:
                write_bytes(run.path("run.flags"), flagfile.encode())
            if run.done("corpus"):
                corpus.check_recordings(run, config)
            _run_stages(run, config, workers)


def repeat(config: RunConfig, stages: Collection[str]) -> None:
    """Do stages of a finished run again, and nothing else.

    Args:
      config: that it was made with.
      stages: of export, thresholds, report and firmware.

    Raises:
      InputError: another stage is not done, or the run is damaged or of another configuration.
    """
    if not Path(config.run_dir, FILE).is_file():
        open_finished(config)  # says so, and makes no folder
    with locked(config.run_dir):
        run = RunDirectory(config.run_dir, settings_of(config), STAGES, stages)
        run.forget(stages)
        _run_stages(run, config)


def open_finished(config: RunConfig) -> tuple[RunDirectory, Shards, RunModels]:
    """Open a run whose models are exported, to measure them on other data; writes nothing there.

    Args:
      config: that it was made with.

    Returns:
      Its directory, its clips (read again where their cache is gone) and its models.

    Raises:
      InputError: a stage is missing, or the run is damaged or of another configuration.
    """
    run = RunDirectory(config.run_dir, settings_of(config), STAGES, ())
    return run, *_models(run, config)


def _run_stages(run: RunDirectory, config: RunConfig, workers: Workers = ALONE) -> None:
    shards, run_models = _models(run, config, workers)
    run.once("thresholds", lambda: _thresholds(run, config, shards, run_models))
    run.once("report", lambda: _report(run, config, shards, run_models))
    run.once("firmware", lambda: _firmware(run, config, shards, run_models))
    say(f"report: {run.path('report', 'report.html')}, bundle: {run.path('firmware')}/")


def _models(
    run: RunDirectory, config: RunConfig, workers: Workers = ALONE
) -> tuple[Shards, RunModels]:
    """The stages up to the exported models."""
    keras.utils.set_random_seed(config.seed)
    shards = corpus.shards_of(run, config)
    workers.see(run.directory / FILE)
    workers.share([stage for stage in ("fp32", "qat") if not run.done(stage)])
    negatives = ambient_audio.negatives(run, config, shards)
    fp32 = _fp32(run, config, shards, negatives, workers)
    calibration_set = calibration_stage.choose(config, shards, negatives)
    qat = _qat(run, config, shards, negatives, fp32, calibration_set, workers)
    run.once("export", lambda: exports.write(run, fp32, qat, calibration_set))
    labels = _training_labels(config, shards, negatives)
    return shards, _run_models(run, fp32, qat, calibration_set, labels)


def _follow(config: RunConfig, workers: Workers) -> None:
    """What another worker than the chief does: it trains with it, and writes nothing of the run."""
    path = Path(config.run_dir, FILE)
    workers.see(path)  # the chief has the corpus now
    run = RunDirectory(config.run_dir, settings_of(config), STAGES, ())
    stages = workers.share()
    shards = corpus.shards_of(run, config)
    negatives = ambient_audio.negatives(run, config, shards)
    data = _training_data(run, config, shards, negatives)
    fp32 = _build(config, shards, config.members)
    if "fp32" in stages:
        members = _members(config, shards)
        directory = path.parent / "fp32"
        fp32_stage.train(fp32, data, config.loss, config.train, directory, workers, members)
    if "qat" in stages:
        workers.share_variables(fp32.weights)
        qat = fake_quantize.quantize(fp32, config.frontend.input_affine)
        finetuning.finetune(qat, fp32, data, config.loss, config.qat, path.parent / "qat", workers)
    say("training is done: the chief goes on alone")


def open_thresholds(config: RunConfig) -> Thresholds:
    """The thresholds of a run.

    Raises:
      InputError: thresholds.json is missing or damaged.
    """
    return thresholds.read(Path(config.run_dir, "thresholds.json"))


def _run_models(
    run: RunDirectory,
    fp32: keras.Model,
    qat: keras.Model,
    calibration_set: ClipFeatures,
    labels: tuple[str, ...],
) -> RunModels:
    exported = {name: run.path("export", file) for name, file in TFLITE_FILES.items()}
    streams = run.record["config"]["model"] in models.STREAMING
    stepwise = {name: run.path("export", file) for name, file in STREAMING_FILES.items()}
    translated = {name: run.path("export", file) for name, file in ONNX_FILES.items()}
    translated = {name: path for name, path in translated.items() if path.exists()}
    return RunModels(
        fp32, qat, exported, stepwise if streams else {}, translated, calibration_set, labels
    )


def _training_data(
    run: RunDirectory, config: RunConfig, shards: Shards, negatives: Negatives | None
) -> loop.TrainingData:
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
        negatives,
        ambient_audio.validation(run, config, shards),
        average_ms=config.average_ms,
    )


def _build(config: RunConfig, shards: Shards, members: int) -> keras.Model:
    frames = config.frontend.num_frames(shards.clip_samples)
    words = len(shards.wake_words)
    return models.build(config.model, frames, config.frontend.channels, words, members)


def _members(config: RunConfig, shards: Shards) -> list[keras.Model]:
    """The members that train in a model's place, none of a model that is its own."""
    count = config.members if config.members > 1 else 0
    return [_build(config, shards, 1) for _ in range(count)]


def _fp32(
    run: RunDirectory,
    config: RunConfig,
    shards: Shards,
    negatives: Negatives | None,
    workers: Workers,
) -> keras.Model:
    if config.model in models.STREAMING:
        shape = config.frontend.channels, len(shards.wake_words)
        say(str(models.describe(config.model, *shape, config.members)))
    model = _build(config, shards, config.members)
    run.once("fp32", lambda: _train(run, config, shards, negatives, model, workers))
    weights.load(model, run.directory / "fp32" / "weights.npz")
    return model


def _train(
    run: RunDirectory,
    config: RunConfig,
    shards: Shards,
    negatives: Negatives | None,
    model: keras.Model,
    workers: Workers,
) -> None:
    path = run.path("fp32", "weights.npz")
    data = _training_data(run, config, shards, negatives)
    if negatives is not None:
        share = negatives.in_batch(config.data.batch)
        say(
            f"ambient audio: {negatives.windows.hours:.2f} h, all passes together; "
            f"{share} of the {config.data.batch} examples of a batch"
        )
    members = _members(config, shards)
    fp32_stage.train(model, data, config.loss, config.train, path.parent, workers, members)
    weights.save(model, path)


def _training_labels(
    config: RunConfig, shards: Shards, negatives: Negatives | None
) -> tuple[str, ...]:
    """The label of every example of an epoch."""
    others = batches.negatives_in_epoch(shards, config.data, negatives)
    return (*(clip.label for clip in shards.clips[TRAIN]), *(AMBIENT,) * others)


def _qat(
    run: RunDirectory,
    config: RunConfig,
    shards: Shards,
    negatives: Negatives | None,
    fp32: keras.Model,
    calibration_set: ClipFeatures,
    workers: Workers,
) -> keras.Model:
    qat = fake_quantize.quantize(fp32, config.frontend.input_affine)
    run.check("qat")
    if not run.done("qat"):
        run.forget(["calibration"])  # QAT starts from ranges that lie in memory alone
    run.once("calibration", lambda: calibration_stage.calibrate(run, qat, fp32, calibration_set))
    if not run.done("qat"):
        data = _training_data(run, config, shards, negatives)
        data = replace(data, first_pools=run.path("fp32", loop.HARD_NEGATIVES))
        run.once("qat", lambda: _finetune(run, config, data, fp32, qat, workers))
    weights.load(qat, run.directory / "qat" / "weights.npz")
    return qat


def _finetune(
    run: RunDirectory,
    config: RunConfig,
    data: loop.TrainingData,
    fp32: keras.Model,
    qat: keras.Model,
    workers: Workers,
) -> None:
    path = run.path("qat", "weights.npz")
    workers.share_variables(fp32.weights)
    finetuning.finetune(qat, fp32, data, config.loss, config.qat, path.parent, workers)
    weights.save(qat, path)


def held_out(run: RunDirectory, config: RunConfig, shards: Shards) -> HeldOut:
    """What a run is measured on: its validation and test splits."""
    pieces = ambient_audio.pieces(run)[0] if config.ambient_dir else []
    return HeldOut(
        shards, config.frontend, pieces, config.max_false_accepts_per_hour, config.average_ms
    )


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
    window_model = run.path("export", TFLITE_FILES[INT8])
    missing = bundle.write_bundle(
        run_models.streaming.get(INT8, window_model),
        run.path("firmware"),
        wake_words=shards.wake_words,
        frontend=config.frontend,
        clip_ms=config.corpus.clip_ms,
        threshold_logit=chosen.clips.logits[INT8],
        stream_sum=chosen.streams[INT8].threshold.sum if chosen.streams else None,
        listening=stream_settings(run_models, data).config,
        hashes={
            "corpus": run.record.get("data_sha256", ""),
            "config": json_file.digest(run.record["config"]),
            "window_model": sha256(window_model),
        },
        golden_clips=golden_clips.choose(shards, config.frontend, window_model),
    )
    for line in missing:
        say(f"bundle: {line}")
    if config.target == "esphome":
        stream = chosen.streams.get(INT8)
        esphome_target.write(
            window_model,
            run.path("esphome"),
            data,
            stream.threshold.logit if stream else chosen.clips.logits[INT8],
            shards.wake_words[0],
        )
