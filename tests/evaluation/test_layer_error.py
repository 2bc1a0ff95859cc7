import dataclasses
import json

import numpy as np
import pytest
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from test_convert import dataset_of
from tf_keras import layers

from wakeword_keras.affine import Affine, dequantize, quantize
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import layer_error
from wakeword_keras.models.activations import HardSwish
from wakeword_keras.quantization import calibration, fake_quantize
from wakeword_keras.report import error_plots, style
from wakeword_keras.tflite import convert, flatbuffer, layer_outputs

FRAMES, CHANNELS = 24, 16
LAYERS = ("first", "depthwise", "expand", "expand_swish", "project", "sum", "pool")


def build():
    keras.utils.set_random_seed(3)

    def norm(x, name):
        return layers.BatchNormalization(name=f"{name}_norm")(x)

    inputs = layers.Input((FRAMES, CHANNELS), name="features")
    x = layers.Reshape((FRAMES, CHANNELS, 1), name="image")(inputs)
    x = layers.ReLU(name="first_relu")(
        norm(layers.Conv2D(8, 5, 2, padding="same", use_bias=False, name="first")(x), "first")
    )
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = short = layers.ReLU(name="depthwise_relu")(norm(x, "depthwise"))
    x = norm(layers.Conv2D(16, 1, use_bias=False, name="expand")(x), "expand")
    x = HardSwish(name="expand_swish")(x)
    x = norm(layers.Conv2D(8, 1, use_bias=False, name="project")(x), "project")
    x = layers.Add(name="sum")([short, x])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(1, name="logit")(x), name="model")


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).uniform(0, 26, (40, FRAMES, CHANNELS)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def files(model, features, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    (out / "fp32.tflite").write_bytes(convert.float_model(model))
    (out / "int8.tflite").write_bytes(convert.int8_model(model, dataset_of(features)))
    return out / "fp32.tflite", out / "int8.tflite"


def damaged(files, tmp_path, change, layer):
    """The INT8 file with what `change(output, weights)` returns by name in one layer's tensors."""
    graph = flatbuffer.read_graph(files[1])
    outputs = layer_outputs.layer_outputs(graph)
    (written,) = [output.tensor for output in outputs if output.layers[:1] == (layer,)]
    (op,) = [op for op in graph.operators if op.output == written]
    tensors = list(graph.tensors)
    places = {"output": written, **({"weights": op.inputs[1]} if len(op.inputs) > 1 else {})}
    named = {name: tensors[place] for name, place in places.items()}
    for name, fields in change(**{"weights": None} | named).items():
        tensors[places[name]] = dataclasses.replace(named[name], **fields)
    path = tmp_path / "damaged.tflite"
    path.write_bytes(flatbuffer.write([dataclasses.replace(graph, tensors=tuple(tensors))]))
    return path


def scale_by(factor):
    def change(output, weights):
        return {"output": {"scale": np.float32(output.scale * factor)}}

    return change


def test_every_layer_is_compared_and_a_sound_model_has_no_layer_to_blame(files, features):
    errors = layer_error.layer_errors(*files, features)
    assert [e.layer for e in errors.in_order()] == ["input", "image", *LAYERS, "logit"]
    assert (errors.unmatched_fp32, errors.unmatched_int8, errors.clips) == ((), (), 40)
    assert min(e.own_sqnr_db for e in errors.layers) > 30
    assert {e.hint for e in errors.layers} == {""}
    ranked = [e.own_sqnr_db for e in errors.layers]
    assert ranked == sorted(ranked)


@pytest.mark.parametrize("factor", [0.2, 12.0])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_whose_output_scale_is_damaged_stands_on_top(
    files, features, tmp_path, layer, factor
):
    path = damaged(files, tmp_path, scale_by(factor), layer)
    errors = layer_error.layer_errors(files[0], path, features)
    worst, second = errors.layers[:2]
    assert worst.layer == layer
    assert worst.own_sqnr_db < second.own_sqnr_db - 3
    if factor < 1:
        assert worst.saturated > 0.01
        assert "do not fit" in worst.hint
    else:
        assert worst.range_use < 0.2
        assert "wider than its values" in worst.hint


@pytest.mark.parametrize("layer", ["first", "depthwise", "expand", "project"])
def test_a_layer_with_one_damaged_weight_scale_stands_on_top(files, features, tmp_path, layer):
    def change(output, weights):
        scale = weights.scale.copy()
        scale[2] *= 1.5
        return {"weights": {"scale": scale}}

    path = damaged(files, tmp_path, change, layer)
    worst = layer_error.layer_errors(files[0], path, features).layers[0]
    assert worst.layer == layer
    assert worst.own_sqnr_db < 30
    assert "do not fit" in worst.hint or "weights differ" in worst.hint


@pytest.mark.parametrize("layer", ["first", "expand", "sum", "pool"])
def test_a_layer_whose_zero_point_is_damaged_stands_on_top(files, features, tmp_path, layer):
    def change(output, weights):
        return {"output": {"zero_point": np.array([100])}}

    path = damaged(files, tmp_path, change, layer)
    worst = layer_error.layer_errors(files[0], path, features).layers[0]
    assert worst.layer == layer
    assert worst.saturated > 0.01


def test_layers_behind_the_damage_inherit_it_but_have_no_error_of_their_own(
    files, features, tmp_path
):
    path = damaged(files, tmp_path, scale_by(0.2), "depthwise")
    sound = {e.layer: e for e in layer_error.layer_errors(*files, features).layers}
    hurt = {e.layer: e for e in layer_error.layer_errors(files[0], path, features).layers}
    for layer in ("expand", "project", "sum", "pool"):
        assert hurt[layer].sqnr_db < sound[layer].sqnr_db - 6, layer
        assert hurt[layer].own_sqnr_db > sound[layer].own_sqnr_db - 6, layer
    assert hurt["first"] == sound["first"]


def test_a_tensor_compared_with_itself_has_the_highest_sqnr():
    affine = Affine(0.5, -3)
    codes = np.random.default_rng(0).integers(-128, 128, (1, 6, 5)).astype(np.int8)
    tally = layer_error._Tally(affine)
    real = dequantize(codes, affine)
    tally.add(codes, real, real)
    error = tally.error("x", "ADD", 1)
    assert (error.sqnr_db, error.own_sqnr_db) == (layer_error.MAX_DB, layer_error.MAX_DB)
    assert error.cosine == pytest.approx(1.0)
    assert (error.saturated, error.values, error.scale, error.zero_point) == (0, 30, 0.5, -3)


def test_figures_by_hand():
    # Codes 0, 10, 127, -128 stand for 0, 1, 12.7, -12.8.
    affine = Affine(0.1, 0)
    codes = np.int8([[0, 10, 127, -128]])
    fp32 = np.float32([[0, 2, 12.7, -12.8]])
    own = np.float32([[0, 1, 12.74, -20]])  # 12.74 rounds to 12.7, -20 does not fit
    tally = layer_error._Tally(affine)
    tally.add(codes, fp32, own)
    e = tally.error("x", "ADD", 1)
    signal = 4 + 12.7**2 + 12.8**2
    assert e.sqnr_db == pytest.approx(10 * np.log10(signal / 1.0), abs=1e-3)
    own_error = 0.04**2 + 7.2**2
    assert e.own_sqnr_db == pytest.approx(10 * np.log10(signal / own_error), abs=1e-3)
    product, int8 = 2 + 12.7**2 + 12.8**2, 1 + 12.7**2 + 12.8**2
    assert e.cosine == pytest.approx(product / np.sqrt(signal * int8), abs=1e-6)
    assert (e.saturated, e.at_limits, e.range_use) == (0.25, 0.5, 1.0)
    assert e.rounding_share == pytest.approx(4 * 0.01 / 12 / own_error, rel=1e-3)
    # Peaks of the channels 0, 1, 12.74, 20: the dead one is left out.
    assert e.channel_spread == pytest.approx(20 / 12.74, rel=1e-5)


def test_the_exact_zeros_of_a_relu_are_not_saturated():
    affine = Affine(0.1, -128)
    relu = np.maximum(np.random.default_rng(0).normal(0, 5, (1, 1000)), 0).astype(np.float32)
    tally = layer_error._Tally(affine)
    tally.add(quantize(relu, affine), relu, relu)
    error = tally.error("x", "CONV_2D", 1)
    assert error.at_limits > 0.4
    assert error.saturated == 0.0


def test_outliers_show_as_little_use_by_the_bulk():
    values = np.append(np.random.default_rng(0).normal(0, 1, 4999), 100).astype(np.float32)
    affine = Affine(100 / 127, 0)
    tally = layer_error._Tally(affine)
    tally.add(quantize(values, affine)[None], values[None], values[None])
    error = layer_error._with_hint(tally.error("x", "ADD", 1))
    assert error.bulk_use < 0.05
    assert error.range_use > 0.5
    assert "outliers" in error.hint


def test_uneven_channels_are_named():
    gains = np.logspace(-2.5, 0, 16)
    values = np.random.default_rng(0).uniform(-1, 1, (1, 200, 16)) * gains * 0.01
    values[..., -1] *= 100
    affine = Affine(1 / 127, 0)
    tally = layer_error._Tally(affine)
    tally.add(quantize(values, affine), values, values)
    error = tally.error("x", "DEPTHWISE_CONV_2D", 1)
    assert error.channel_spread > 100
    hint = layer_error._with_hint(dataclasses.replace(error, own_sqnr_db=20.0)).hint
    assert "equalise" in hint


@pytest.mark.parametrize("undefined", [np.inf, np.nan])
def test_a_layer_undefined_on_what_int8_gives_it_has_figures_all_the_same(undefined):
    # 1 / sqrt of a variance that int8 rounds to zero, or below it.
    affine = Affine(0.1, 0)
    codes = np.int8([[1, 2, 127]])
    tally = layer_error._Tally(affine)
    tally.add(codes, dequantize(codes, affine), np.float32([[0.1, 0.2, undefined]]))
    error = layer_error._with_hint(tally.error("x", "RSQRT", 1))
    json.dumps(dataclasses.asdict(error), allow_nan=False)
    assert (error.own_sqnr_db, error.rounding_share) == (-layer_error.MAX_DB, 0.0)
    assert error.saturated == pytest.approx(1 / 3)
    assert error.channel_spread == pytest.approx(0.2 / 0.15)


def test_swapped_files_fail_loudly(files, features):
    with pytest.raises(InputError, match="swapped"):
        layer_error.layer_errors(files[1], files[0], features)
    with pytest.raises(InputError, match="swapped"):
        layer_error.layer_errors(files[0], files[0], features)


def test_features_of_another_front_end_are_refused(files, features):
    with pytest.raises(InputError, match="takes features"):
        layer_error.layer_errors(*files, features[:, :5])
    with pytest.raises(InputError, match="got 0"):
        layer_error.layer_errors(*files, features[:0])


def test_another_architecture_is_refused(files, features, tmp_path):
    inputs = layers.Input((FRAMES, CHANNELS))
    other = keras.Model(inputs, layers.Dense(3, name="other")(layers.Flatten()(inputs)))
    path = tmp_path / "other.tflite"
    path.write_bytes(convert.float_model(other))
    with pytest.raises(InputError, match="other architectures"):
        layer_error.layer_errors(path, files[1], features)


def test_an_operator_that_one_file_lacks_is_listed_and_the_rest_still_compared(
    files, features, tmp_path
):
    """The float model with its swish taken out: operators behind it keep their partners."""
    graph = flatbuffer.read_graph(files[0])
    operators = list(graph.operators)
    swish = operators.pop([op.kind for op in operators].index("HARD_SWISH"))
    operators = [
        dataclasses.replace(
            op, inputs=tuple(swish.inputs[0] if i == swish.output else i for i in op.inputs)
        )
        for op in operators
    ]
    path = tmp_path / "without.tflite"
    path.write_bytes(flatbuffer.write([dataclasses.replace(graph, operators=tuple(operators))]))
    errors = layer_error.layer_errors(path, files[1], features)
    assert errors.unmatched_fp32 == ()
    (missing,) = errors.unmatched_int8
    assert missing.startswith("HARD_SWISH")
    assert "expand_swish" in missing
    assert [e.layer for e in errors.in_order() if e.position] == [
        "image", "first", "depthwise", "expand", "project", "sum", "pool", "logit",
    ]  # fmt: skip
    # The layer that lacks its swish is to blame, not those before or behind it.
    assert errors.layers[0].layer == "project"
    assert missing in layer_error.table(errors)


def output(kind, shape, reads, tensor, type="FLOAT32", activation=0, names=()):
    key = (kind, activation, 0, *shape)
    return layer_outputs.LayerOutput(key, kind, names, reads, tensor, type, kind)


def test_a_relu_of_its_own_pairs_with_a_fused_one():
    apart = [output("ADD", (4,), (0,), 1), output("RELU", (4,), (1,), 2)]
    fused = [output("ADD", (4,), (0,), 9, "INT8", activation=schema.ActivationFunctionType.RELU)]
    ((left, right),) = layer_outputs.align(layer_outputs._fold_clamps(apart), fused)
    assert (left.tensor, right.tensor) == (2, 9)
    # A sum that somebody else reads too cannot be fused.
    read_twice = [*apart, output("MUL", (4,), (1, 2), 3)]
    assert len(layer_outputs._fold_clamps(read_twice)) == 3


def test_names_decide_which_of_equal_operators_is_missing():
    left = [output("CONV_2D", (4,), (i,), i + 1, names=(name,)) for i, name in enumerate("abc")]
    right = [output("CONV_2D", (4,), (0,), 1, "INT8", names=(name,)) for name in "ac"]
    pairs = layer_outputs.align(left, right)
    assert [(a.layers, b.layers) for a, b in pairs] == [(("a",), ("a",)), (("c",), ("c",))]


def test_the_unquantized_has_the_weights_of_qat_and_shows_quantization_alone(
    model, files, features, tmp_path
):
    qat = fake_quantize.quantize(model, Affine(26 / 256, -128))
    kernel = next(v for v in qat.get_layer("quant_project").weights if "kernel" in v.name)
    kernel.assign(kernel * 1.3)  # what a long fine-tuning may do
    untouched = model.get_layer("project").get_weights()[0]
    twin = fake_quantize.unquantized(qat, model)
    np.testing.assert_allclose(twin.get_layer("project").get_weights()[0], untouched * 1.3)
    np.testing.assert_array_equal(model.get_layer("project").get_weights()[0], untouched)
    calibration.calibrate(qat, twin, features)
    for name, content in (
        ("twin", convert.float_model(twin)),
        ("int8", convert.int8_model(qat, dataset_of(features))),
    ):
        (tmp_path / f"{name}.tflite").write_bytes(content)
    int8 = tmp_path / "int8.tflite"
    against_fp32 = layer_error.layer_errors(files[0], int8, features)
    assert against_fp32.layers[0].layer == "project"
    assert "float twin" in against_fp32.layers[0].hint
    against_twin = layer_error.layer_errors(tmp_path / "twin.tflite", int8, features)
    assert min(e.own_sqnr_db for e in against_twin.layers) > 28


def test_the_comparison_is_json_and_a_table_and_a_picture(files, features):
    errors = layer_error.layer_errors(*files, features, clips=7)
    assert errors.clips == 7
    content = json.loads(json.dumps(errors.to_json(), allow_nan=False))
    assert [layer["layer"] for layer in content["layers"]] == [e.layer for e in errors.layers]
    lines = layer_error.table(errors, rows=3).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [e.layer for e in errors.layers[:3]]
    ordered = errors.in_order()
    figure = error_plots.layer_bars(
        [e.layer for e in ordered],
        np.array([e.own_sqnr_db for e in ordered]),
        np.array([e.sqnr_db for e in ordered]),
    )
    assert style.to_svg(figure, "layers").startswith("<svg")
