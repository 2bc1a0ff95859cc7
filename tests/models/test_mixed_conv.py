import numpy as np
import pytest
import tf_keras as keras
from test_layer_rules import INPUT, dataset_of, run_int8

from wakeword_keras import InputError, models
from wakeword_keras.firmware import macs
from wakeword_keras.models import mixed_conv
from wakeword_keras.quantization import calibration, fake_quantize, integer_model
from wakeword_keras.tflite import convert, flatbuffer, streaming

SIZES = {"mixed_conv_small": 98, "mixed_conv_medium": 146, "mixed_conv_large": 182}


def small(frames=38, words=1, members=1, seed=1):
    keras.utils.set_random_seed(seed)
    return mixed_conv.mixed_conv(
        frames, 8, words, members, kernels=((3,), (2, 4)), filters=7, first_filters=5, head_rows=3
    )


def test_the_frames_it_sees_by_hand():
    # Three rows at the end, two and three more under the kernels: 8 rows, 3 frames apart, 5 wide.
    assert mixed_conv.receptive_frames(((3,), (2, 4)), 3) == 7 * 3 + 5


@pytest.mark.parametrize("size", SIZES)
def test_a_size_sees_as_many_frames_as_it_says_and_no_more(size):
    frames = SIZES[size]
    model = models.build(size, frames + 7, 40, 1)
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 26, (1, frames + 7, 40)).astype(np.float32)
    logit = model(features).numpy()
    older = features.copy()
    older[:, :7] = 0
    assert (model(older).numpy() == logit).all()
    older[:, 7] = 0
    assert (model(older).numpy() != logit).all()
    with pytest.raises(InputError, match=rf"sees {frames}: `clip_ms`={10 * frames + 20}"):
        models.build(size, frames - 1, 40, 1)


def test_an_even_and_an_odd_share_of_the_filters_add_up():
    assert mixed_conv._shares(7, 2) == [3, 4]
    assert mixed_conv._shares(8, 3) == [2, 3, 3]


@pytest.mark.parametrize(("words", "count"), [(1, 2), (2, 3)])
def test_the_logits_of_joined_members_are_the_mean_of_theirs(words, count):
    rng = np.random.default_rng(0)
    members = [small(words=words, seed=seed) for seed in range(count)]
    for member in members:  # batch norms with statistics and shifts of their own
        member.set_weights(
            [weights + rng.uniform(0, 0.5, weights.shape) for weights in member.get_weights()]
        )
    joined = small(words=words, members=count)
    mixed_conv.join(joined, members)
    features = rng.uniform(0, 3, (5, 38, 8)).astype(np.float32)
    logits = [member(features).numpy() for member in members]
    assert np.ptp(logits, axis=0).min() > 0.01 * np.abs(logits).max()
    np.testing.assert_allclose(joined(features).numpy(), np.mean(logits, axis=0), rtol=1e-5)


def test_other_architectures_have_one_member():
    with pytest.raises(InputError, match="ds_cnn has one member only: choose one of mixed_conv"):
        models.build("ds_cnn", 98, 40, 1, members=2)


@pytest.mark.parametrize("members", [1, 3])
def test_its_int8_file_is_the_device_model_and_streams_the_same_integers(members):
    model = small(members=members)
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 26, (64, 38, 8)).astype(np.float32)
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    content = convert.int8_model(qat, dataset_of(features[:2]))
    logits, scale = run_int8(content, features)
    exact = integer_model.device_model(qat, model).predict(features, verbose=0)
    assert np.abs(logits - exact).max() / scale < 0.01
    assert np.ptp(logits) > 20 * scale
    made = streaming.stream(content)
    # However many members there are, these are the rings of one.
    assert (made.step_frames, len(made.states)) == (3, 5)
    streaming.verify(content, streaming.to_bytes(made), features[:4])
    kinds = {op.kind for op in flatbuffer.read(streaming.to_bytes(made))[0].operators}
    assert "STRIDED_SLICE" in kinds


@pytest.mark.parametrize("size", SIZES)
def test_a_size_streams_with_the_states_that_esphome_allows(size):
    content = convert.float_model(models.build(size, SIZES[size], 40, 1))
    made = streaming.stream(content)
    assert made.step_frames == mixed_conv.STRIDE
    assert len(made.states) <= 20


@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize("size", SIZES)
def test_a_description_is_what_the_rewired_file_says(size, members):
    said = models.describe(size, members=members)
    assert said.macs == members * models.describe(size).macs
    model = models.build(size, SIZES[size], 40, 1, members)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 1, weights.shape) for weights in model.get_weights()])
    clips = rng.uniform(0, 26, (4, SIZES[size], 40)).astype(np.float32)
    content = convert.int8_model(model, dataset_of(clips))
    graph = streaming.stream(content).graph
    assert said.macs == sum(macs.macs_by_operator(graph).values())
    assert (said.frames, said.ms) == (SIZES[size], 10 * SIZES[size] + 20)
    assert graph.tensors[graph.inputs[0]].shape == (1, said.step_frames, 40)
    assert said.parameters == macs.parameters(graph)
    assert str(said.frames) in str(said)


def test_an_architecture_without_steps_is_not_described():
    with pytest.raises(InputError, match="ds_cnn does not stream"):
        models.describe("ds_cnn")
