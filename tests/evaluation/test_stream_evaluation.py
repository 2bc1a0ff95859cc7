import dataclasses
import json
import zlib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_recordings import CLIP_MS, TONES, write_ambient, write_recordings

from wakeword_keras import InputError
from wakeword_keras.affine import Affine, dequantize, quantize
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data import ambient
from wakeword_keras.data.corpus import Clip, CorpusConfig, read_corpus
from wakeword_keras.data.shards import ClipInfo, Shards, write_shards
from wakeword_keras.evaluation import stream_evaluation, stream_thresholds
from wakeword_keras.firmware.manifest import read_manifest
from wakeword_keras.metrics import stream_rule
from wakeword_keras.metrics.stream_rule import PROBABILITY_ONE, StreamConfig
from wakeword_keras.report import plots, report
from wakeword_keras.streams import scoring, stream_metrics
from wakeword_keras.streams.detector import Detector, detections, load_detector, stream_logits
from wakeword_keras.streams.scoring import SplitAudio, StreamModel, StreamSettings, Tracks

CONFIG = StreamConfig(stride_ms=50, average_ms=50, refractory_ms=200)  # 4 steps
FRONTEND = FrontendConfig()
SETTINGS = StreamSettings(FRONTEND, FRONTEND.num_frames(CLIP_MS * 16), CONFIG)
OUTPUT = Affine(0.064, -18)


# Metrics, on tracks made by hand: percent of PROBABILITY_ONE.


def units(percents):
    return np.rint(np.asarray(percents) / 100 * PROBABILITY_ONE).astype(np.uint32)


def tracks(ambient_percents, positive_percents, words=None):
    spoken = units(positive_percents)
    streams = tuple((units(track), np.zeros(len(track), np.uint8)) for track in ambient_percents)
    words = np.zeros(spoken.shape, np.uint8) if words is None else np.asarray(words, np.uint8)
    return Tracks(streams, (spoken, words), 0, 0, 0, None)


def silent_audio(targets, streams=1, hours=1.0, wake_words=("yes", "no")):
    """What a split's audio says of itself, without any audio."""
    clips = tuple(
        ClipInfo(str(i), wake_words[target], target, "positive", f"s{i}", 1.0)
        for i, target in enumerate(targets)
    )
    shards = Shards(Path("nowhere"), wake_words, CLIP_MS * 16, {"test": clips})
    length = hours * 3600 / streams
    pieces = tuple(
        (Clip(f"_ambient_/{i}.wav", "", "_ambient_", "speech", f"{i}", "test", 1, 0, length),)
        for i in range(streams)
    )
    return SplitAudio(shards, "test", pieces)


def test_false_accepts_and_misses_by_hand():
    # Steps 1 and 6 fire at 50; 2 and 4 lie within the refractory time of 1. At 90 only 4 does.
    stream = [0, 60, 70, 10, 95, 0, 50, 49]
    spoken = [[0, 40], [55, 0], [10, 50], [0, 0]]
    audio = silent_audio([0] * 4, streams=2, hours=2.0)
    found = stream_metrics.measure(tracks([stream, [0] * 8], spoken), units(50), audio, CONFIG)
    assert (found.false_accepts, found.false_accepts_per_hour, found.hours) == (2, 1.0, 2.0)
    assert (found.misses, found.positives, found.miss_rate) == (2, 4, 0.5)
    assert found.miss_rate_ci95[0] < 0.5 < found.miss_rate_ci95[1]
    # chi2.ppf([0.025, 0.975], [4, 6]) / 2, for 2 hours.
    assert found.false_accepts_per_hour_ci95 == pytest.approx((0.12110, 3.61234), rel=1e-4)
    higher = stream_metrics.measure(tracks([stream], spoken), units(90), audio, CONFIG)
    assert (higher.false_accepts, higher.misses) == (1, 4)


def test_no_event_is_an_upper_bound_and_not_zero():
    audio = silent_audio([0], hours=6.0)
    found = stream_metrics.measure(tracks([[10]], [[90]]), units(50), audio, CONFIG)
    assert found.false_accepts == 0
    assert found.false_accepts_per_hour_upper95 == pytest.approx(0.5, rel=2e-3)
    assert found.false_accepts_per_hour_ci95[0] == 0.0


def test_a_wake_word_counts_only_by_its_own_name():
    # The other name fires first and silences the right one; at 70 only the right one fires.
    spoken, words = [[60, 80, 0], [60, 80, 0]], [[1, 0, 0], [0, 1, 0]]
    audio = silent_audio([0, 0])
    for threshold, misses in ((50, 1), (70, 1), (90, 2)):
        given_tracks = tracks([[0]], spoken, words)
        found = stream_metrics.measure(given_tracks, units(threshold), audio, CONFIG)
        assert found.misses == misses
    spoken, words = [[60, 80, 0]], [[1, 0, 0]]
    at = {
        threshold: stream_metrics.measure(
            tracks([[0]], spoken, words), units(threshold), silent_audio([0]), CONFIG
        ).misses
        for threshold in (50, 70)
    }
    assert at == {50: 1, 70: 0}


percents = st.lists(st.integers(0, 100), min_size=1, max_size=30)


@given(st.lists(percents, min_size=1, max_size=3), st.lists(percents, min_size=1, max_size=6))
def test_curve_is_what_measure_says_at_each_of_its_thresholds(ambient_percents, spoken):
    steps = min(map(len, spoken))
    given_tracks = tracks(ambient_percents, [row[:steps] for row in spoken])
    audio = silent_audio([0] * len(spoken), streams=len(ambient_percents), hours=3.0)
    drawn = stream_metrics.curve(given_tracks, audio, CONFIG)
    assert (np.diff(drawn.probability) > 0).all()
    assert (np.diff(drawn.false_accepts) <= 0).all()
    assert (np.diff(drawn.misses) >= 0).all()
    for i, probability in enumerate(drawn.probability):
        point = stream_metrics.measure(given_tracks, round(probability * CONFIG.one), audio, CONFIG)
        assert (point.false_accepts, point.misses) == (drawn.false_accepts[i], drawn.misses[i])


def test_recall_within_a_rate_is_that_of_the_best_threshold_of_the_curve():
    counts = {"false_accepts": np.array([6, 2, 0]), "misses": np.array([0, 1, 4])}
    drawn = stream_metrics.StreamCurve(
        np.array([0.2, 0.5, 0.9]),
        counts["false_accepts"],
        counts["false_accepts"] / 2.0,
        counts["misses"],
        counts["misses"] / 5,
    )
    found = {rate: stream_metrics.recall_within(drawn, rate) for rate in (0, 0.9, 1, 2.9, 3)}
    assert found == pytest.approx({0: 0.2, 0.9: 0.2, 1: 0.8, 2.9: 0.8, 3: 1.0})
    no_threshold = dataclasses.replace(drawn, false_accepts_per_hour=np.array([3.0, 2.0, 1.0]))
    assert stream_metrics.recall_within(no_threshold, 0.5) == 0.0


@given(
    st.lists(percents, min_size=1, max_size=3),
    percents,
    st.integers(0, 8),
    st.sampled_from([None, Affine(0.02, 0), Affine(0.06, -20)]),
)
def test_threshold_is_the_lowest_within_the_budget(ambient_percents, spoken, most, output):
    highest = (
        CONFIG.one if output is None else stream_rule.probability_units(dequantize(127, output))
    )
    ambient_percents = [
        np.minimum(track, 100 * highest / PROBABILITY_ONE) for track in ambient_percents
    ]
    given_tracks = tracks(ambient_percents, [[percent] for percent in spoken])
    chosen = stream_metrics.choose_threshold(given_tracks, most, CONFIG, output)

    def count(threshold):
        at = np.array([threshold], np.int64)
        return int(stream_rule.event_counts(given_tracks.sums, at, CONFIG.refractory_steps)[0])

    assert chosen.sum <= highest
    if chosen.within_budget:
        assert count(chosen.sum) <= most
        lower = [s for track in given_tracks.sums for s in track.tolist() if s < chosen.sum]
        assert not lower or count(max(lower)) > most
        # Nothing lies below the threshold that would be decided like what lies above it.
        spoken_units = given_tracks.positives[0].ravel()
        assert not lower or not ((spoken_units > max(lower)) & (spoken_units < chosen.sum)).any()
    else:
        assert chosen.sum == highest
        assert count(highest) > most
    more = stream_metrics.choose_threshold(given_tracks, most + 1, CONFIG, output)
    assert more.sum <= chosen.sum
    assert chosen.probability == chosen.sum / CONFIG.one
    assert 1 / (1 + np.exp(-chosen.logit)) == pytest.approx(chosen.probability, abs=1e-7)


def test_threshold_stands_midway_to_the_next_score():
    given_tracks = tracks([[20, 0, 0, 0, 30, 0, 0, 0, 40]], [[34], [60]])
    thresholds = [
        stream_metrics.choose_threshold(given_tracks, most, CONFIG, None).probability
        for most in (0, 1, 2)
    ]
    assert thresholds == pytest.approx([0.50, 0.32, 0.25], abs=1e-6)


def test_budget_of_29_in_100_hours_is_29_despite_rounding():
    assert stream_metrics.allowed_events(0.29, 100) == 29
    assert stream_metrics.allowed_events(0.5, 0.49) == 0


def test_loudest_are_apart_in_their_file_and_in_order():
    audio = silent_audio([0], streams=2, hours=20 / 3600)
    given_tracks = tracks([[0, 50, 60, 55, 0, 0, 0, 40], [0] * 7 + [70]], [[0]])
    loud = stream_metrics.highest_peaks(given_tracks, int(units(55)), audio, SETTINGS)
    assert [(x.file, x.fires) for x in loud[:3]] == [
        ("_ambient_/1.wav", True), ("_ambient_/0.wav", True), ("_ambient_/0.wav", False)
    ]  # fmt: skip
    # A window of 500 ms ends 350 ms after the first one did.
    assert loud[0].seconds == pytest.approx(0.85)
    assert [x.probability for x in loud[:3]] == pytest.approx([0.7, 0.6, 0.4], abs=1e-6)


# Listening, with models that are formulas.


def exact_logits(features):
    """How far the channels of the tone stand above the others, as int8 logits."""
    tone = features[:, :, 8:12].mean(axis=(1, 2)) - features[:, :, 20:36].mean(axis=(1, 2))
    return dequantize(quantize(2 * tone[:, None] - 6, OUTPUT), OUTPUT)


EXACT = StreamModel(exact_logits, None, OUTPUT)


def quick_logits(features):
    """The same, off by up to 3 LSB in a way that depends on the window alone."""
    logits = exact_logits(features)
    off = [zlib.crc32(np.ascontiguousarray(window).tobytes()) % 7 - 3 for window in features]
    return logits + np.float32(OUTPUT.scale) * np.array(off, np.float32)[:, None]


@pytest.fixture(scope="module")
def audio_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("streams")
    config = CorpusConfig(wake_words=("yes",), clip_ms=CLIP_MS)
    corpus = read_corpus([str(write_recordings(root / "words"))], config)
    readers = [f"reader-{i}" for i in range(6)]
    corpus = ambient.join(
        corpus, [str(write_ambient(root / "ambient", readers, tones=TONES))], config
    )
    shards = write_shards(corpus, CLIP_MS, root / "cache")

    def of(split):
        return scoring.split_audio(shards, corpus.streams, split)

    return of


def listened(audio_of, models, budget=600.0):
    chosen = stream_thresholds.choose(audio_of("validation"), models, SETTINGS, budget)
    return stream_evaluation.evaluate(chosen, audio_of("test"), models, SETTINGS, budget)


def test_screening_changes_no_figure_of_the_exact_kernels(audio_of):
    alone = listened(audio_of, {"int8": EXACT}).models["int8"]
    screened = StreamModel(quick_logits, exact_logits, OUTPUT)
    found = listened(audio_of, {"int8": screened}).models["int8"]
    assert 0 < found.rescored < found.windows
    assert 0 < found.largest_difference_lsb <= 3.001
    assert found.threshold == alone.threshold
    assert (found.validation, found.test) == (alone.validation, alone.test)
    # The same points above the floor, which is the first point of each curve.
    for name in ("probability", "false_accepts", "misses"):
        theirs, ours = getattr(alone.curve, name), getattr(found.curve, name)
        above = alone.curve.probability > found.curve.probability[0]
        np.testing.assert_array_equal(theirs[above], ours[1:])


def test_kernels_further_apart_than_expected_are_rescored_until_it_does_not_matter(audio_of):
    far = StreamModel(
        lambda x: exact_logits(x) - np.float32(30 * OUTPUT.scale), exact_logits, OUTPUT
    )
    alone = listened(audio_of, {"int8": EXACT}).models["int8"]
    found = listened(audio_of, {"int8": far}).models["int8"]
    assert found.largest_difference_lsb == pytest.approx(30, abs=0.01)
    assert (found.threshold, found.test) == (alone.threshold, alone.test)


def test_a_stream_is_heard_as_the_detector_hears_it(audio_of):
    test = audio_of("test")
    config = dataclasses.replace(CONFIG, average_ms=100)
    settings = dataclasses.replace(SETTINGS, config=config)
    found = scoring.score(test, {"int8": StreamModel(exact_logits)}, settings, 1e9)["int8"]
    at = 0.5
    detector = Detector(lambda: exact_logits, ("yes",), FRONTEND, SETTINGS.frames, at, config)
    logits = [stream_logits(blocks, detector, config.stride_ms) for blocks in test.recordings()]
    heard = [len(detections(values, detector, config)) for values in logits]
    threshold = np.array([round(at * config.one)])
    counts = [
        int(stream_rule.event_counts([sums], threshold, config.refractory_steps)[0])
        for sums in found.sums
    ]
    assert counts == heard[: len(test.streams)]
    assert sum(counts) > 0


def test_wake_words_are_heard_and_tones_of_others_are_the_false_accepts(audio_of):
    report = listened(audio_of, {"int8": EXACT})
    model = report.models["int8"]
    assert model.test.positives == 8
    assert model.curve.misses[0] <= 1
    test = audio_of("test")
    readers = {pieces[0].speaker for pieces in test.streams}
    expected = [(who, at) for who, at in TONES if who in readers]
    for (who, at), loud in zip(
        sorted(expected), sorted(model.loudest[: len(expected)], key=lambda x: x.file), strict=True
    ):
        assert who in loud.file
        assert at < loud.seconds < at + 1.0
    said = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert said["models"]["int8"]["threshold"]["sum"] == model.threshold.sum
    assert any(
        "validation" in message and "h without one" in message for message in said["messages"]
    )
    table = stream_evaluation.console_table(report)
    assert "int8" in table
    assert max(map(len, table.splitlines()[:3])) <= 80
    recalls = (stream_metrics.recall_within(model.curve, rate) for rate in (0, 0.5, 1, 2, 5))
    at_best = ["int8", *(f"{100 * recall:.1f}" for recall in recalls)]
    assert at_best in [line.split() for line in table.splitlines()]


def test_a_model_that_always_fires_is_reported_as_out_of_budget(audio_of):
    top = StreamModel(lambda x: np.full((len(x), 1), OUTPUT.high, np.float32), None, OUTPUT)
    report = listened(audio_of, {"int8": top}, budget=0.5)
    assert not report.models["int8"].threshold.within_budget
    assert any("highest score" in message for message in report.messages)
    assert report.models["int8"].test.false_accepts > 0


def test_not_a_number_is_refused(audio_of):
    broken = StreamModel(lambda x: np.full((len(x), 1), np.nan, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        listened(audio_of, {"int8": broken})


def test_no_wake_words_or_no_streams_are_refused(audio_of):
    test = audio_of("test")
    pieces = [piece for pieces in test.streams for piece in pieces]
    with pytest.raises(InputError, match="ambient"):
        scoring.split_audio(test.shards, [], "test")
    negatives = tuple(c for c in test.shards.clips["test"] if c.target < 0)
    bare = dataclasses.replace(test.shards, clips={"test": negatives})
    with pytest.raises(InputError, match="no wake word"):
        scoring.split_audio(bare, pieces, "test")
    short = [dataclasses.replace(pieces[0], duration_s=0.1)]
    audio = scoring.split_audio(test.shards, short, "test")
    # Silence follows what is shorter than a window.
    found = scoring.score(audio, {"m": StreamModel(exact_logits)}, SETTINGS, 0)["m"]
    assert [len(sums) for sums in found.sums] == [1]


def test_zero_false_accepts_have_a_place_of_their_own_on_the_plot():
    rates, misses = np.array([6.0, 2.0, 0.0]), np.array([0.0, 0.1, 0.4])
    figure = plots.det_streams({"int8": (rates, misses)}, {"int8": (0.0, 0.4)}, 0.5)
    (axes,) = figure.axes
    ticks = axes.xaxis.get_major_locator().locs
    labels = [axes.xaxis.get_major_formatter()(tick, None) for tick in ticks]
    assert labels[:2] == ["0", "0.5"]
    assert axes.get_lines()[0].get_xdata().min() == ticks[0]


# The whole line on tiny recordings.


def test_a_run_reports_its_streams_and_the_bundle_carries_their_threshold(stream_run):
    run_dir = Path(stream_run.run_dir)
    whole = json.loads((run_dir / "report" / "report.json").read_text())
    schema = Path(report.__file__).with_name("report_schema.json")
    jsonschema.validate(whole, json.loads(schema.read_text()))
    said = whole["streams"]
    assert set(said["models"]) == {"fp32_tflite", "int8_ptq", "int8"}
    int8 = said["models"]["int8"]
    assert int8["kernels"] == "reference"
    assert int8["test"]["hours"] == pytest.approx(8 / 3600)
    assert (run_dir / "report" / "det_streams.png").stat().st_size > 0
    assert "false accepts per hour" in (run_dir / "report" / "report.html").read_text()
    manifest = read_manifest(run_dir / "firmware")
    assert manifest["threshold"]["chosen_on"] == "streams"
    assert manifest["listening"]["threshold_sum"] == int8["threshold"]["sum"]
    assert manifest["threshold"]["probability"] == int8["threshold"]["probability"]
    detector = load_detector(run_dir / "firmware")
    assert detector.threshold_probability == int8["threshold"]["probability"]
    corpus = json.loads((run_dir / "corpus.json").read_text())
    for split in ("train", "validation", "test"):
        assert "_ambient_" not in corpus["splits"][split]["labels"]
        assert corpus["streams"][split]["speakers"] == 2
