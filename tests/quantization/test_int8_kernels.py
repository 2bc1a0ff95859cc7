"""Kernels against TFLite's own, on files of one operator, and against values derived by hand."""

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from wakeword_keras.affine import INT8_MAX, INT8_MIN, Affine
from wakeword_keras.quantization import fixed_point, int8_kernels
from wakeword_keras.tflite.interpreter import open_interpreter

ALL = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int8)


def reference(operator, inputs, affines, shape, out, **options):
    """What a single operator writes, int8, on the reference kernels."""
    content = one_operator(operator, [x.shape for x in inputs], affines, shape, out, options)
    made = open_interpreter(content, "reference")
    for detail, x in zip(made.get_input_details(), inputs, strict=True):
        made.set_tensor(detail["index"], x)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


def one_operator(operator, shapes, affines, shape, out, options):
    code, kind = schema.OperatorCodeT(), operator.title().replace("_", "")
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, operator)
    code.version = 2
    kind = {"L2Normalization": "L2Norm", "BatchMatmul": "BatchMatMul"}.get(kind, kind)
    op, graph, model = schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    op.opcodeIndex, op.inputs, op.outputs = 0, list(range(len(shapes))), [len(shapes)]
    if hasattr(schema, f"{kind}OptionsT"):
        op.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
        op.builtinOptions = getattr(schema, f"{kind}OptionsT")()
        vars(op.builtinOptions).update(options)
    graph.tensors = [tensor(*pair) for pair in zip([*shapes, shape], [*affines, out], strict=True)]
    graph.inputs, graph.outputs, graph.operators = op.inputs, op.outputs, [op]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tensor(shape, affine):
    made = schema.TensorT()
    made.shape, made.type, made.buffer = list(shape), schema.TensorType.INT8, 0
    made.quantization = schema.QuantizationParametersT()
    made.quantization.scale, made.quantization.zeroPoint = [affine.scale], [affine.zero_point]
    return made


def affine(rng, low=1e-4, high=1.0):
    scale = np.exp(rng.uniform(np.log(low), np.log(high)))
    return Affine(float(np.float32(scale)), int(rng.integers(INT8_MIN, INT8_MAX + 1)))


def steps(x, affine):
    return tf.constant(x.astype(np.float32) - affine.zero_point)


def scale_of(affine):
    return tf.constant(affine.scale, tf.float64)


def as_int8(steps, affine):
    return np.clip(np.asarray(steps) + affine.zero_point, INT8_MIN, INT8_MAX)


@pytest.mark.parametrize(
    ("operator", "function", "out"),
    [("LOGISTIC", tf.sigmoid, Affine(1 / 256, -128)), ("TANH", tf.tanh, Affine(1 / 128, 0))],
)
def test_a_tabulated_activation_is_tflites_for_every_input(operator, function, out):
    rng = np.random.default_rng(0)
    powers = [Affine(2.0**-n, 0) for n in range(12)]  # many ties
    for given in [*powers, *(affine(rng) for _ in range(50))]:
        expected = reference(operator, [ALL], [given], ALL.shape, out)
        got = int8_kernels.tabulated(steps(ALL, given), function, scale_of(given), out.scale)
        np.testing.assert_array_equal(as_int8(got, out), expected, err_msg=str(given))


def test_softmax_is_tflites():
    rng, out = np.random.default_rng(0), Affine(1 / 256, -128)
    softmax = tf.function(int8_kernels.softmax, reduce_retracing=True)
    for _ in range(50):
        given, width = affine(rng), int(rng.integers(1, 100))
        x = rng.integers(INT8_MIN, INT8_MAX + 1, (50, width)).astype(np.int8)
        expected = reference("SOFTMAX", [x], [given], x.shape, out, beta=1.0)
        got = softmax(steps(x, given), scale_of(given))
        np.testing.assert_array_equal(as_int8(got, out), expected, err_msg=str(given))


def test_unit_length_is_tflites():
    rng, out = np.random.default_rng(0), Affine(1 / 128, 0)
    unit_length = tf.function(int8_kernels.unit_length, reduce_retracing=True)
    for _ in range(50):
        given, width, largest = affine(rng), int(rng.integers(1, 200)), rng.choice([1, 3, 20, 255])
        x = given.zero_point + rng.integers(-largest, largest + 1, (50, width))
        x = np.clip(x, INT8_MIN, INT8_MAX).astype(np.int8)
        expected = reference("L2_NORMALIZATION", [x], [given], x.shape, out)
        got = unit_length(steps(x, given))
        np.testing.assert_array_equal(as_int8(got, out), expected)


def test_a_sum_is_tflites_with_one_vector_for_every_head():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second, out = (affine(rng, 0.01, 0.05) for _ in range(3))
        a = rng.integers(INT8_MIN, INT8_MAX + 1, (1, 2, 30, 8)).astype(np.int8)
        b = rng.integers(INT8_MIN, INT8_MAX + 1, (2, 1, 8)).astype(np.int8)
        expected = reference("ADD", [a, b], [first, second], a.shape, out)
        scales = [scale_of(x) for x in (first, second, out)]
        got = int8_kernels.total(steps(a, first), steps(b, second), *scales)
        np.testing.assert_array_equal(as_int8(got, out), expected)


@pytest.mark.parametrize("transpose_b", [False, True])
def test_a_product_of_matrices_is_tflites(transpose_b):
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = affine(rng, 0.01, 0.05), affine(rng, 0.01, 0.05)
        out = Affine(float(np.float32(first.scale * second.scale * 400)), 5)
        a = rng.integers(INT8_MIN, INT8_MAX + 1, (2, 25, 10)).astype(np.int8)
        b = rng.integers(INT8_MIN, INT8_MAX + 1, (2, 10, 30)).astype(np.int8)
        given = b.swapaxes(1, 2).copy() if transpose_b else b
        affines = [first, second]
        expected = reference(
            "BATCH_MATMUL", [a, given], affines, (2, 25, 30), out, adjX=False, adjY=transpose_b
        )
        sums = tf.matmul(steps(a, first), steps(b, second))
        got = int8_kernels.rescaled(
            sums, int8_kernels.product_factor(*map(scale_of, [*affines, out]))
        )
        np.testing.assert_array_equal(as_int8(got, out), expected)


def test_a_product_is_tflites():
    rng = np.random.default_rng(0)
    a, b = (x.ravel() for x in np.meshgrid(ALL, ALL))
    for _ in range(20):
        first, second = affine(rng, 0.01, 0.05), affine(rng, 0.01, 0.05)
        out = Affine(float(np.float32(first.scale * second.scale * rng.uniform(50, 300))), 5)
        expected = reference("MUL", [a, b], [first, second], a.shape, out)
        scales = [scale_of(x) for x in (first, second, out)]
        got = int8_kernels.product(steps(a, first), steps(b, second), *scales)
        np.testing.assert_array_equal(as_int8(got, out), expected)


def test_a_fully_connected_layer_is_tflites():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = affine(rng, 0.01, 0.05), Affine(affine(rng, 0.01, 0.05).scale, 0)
        out = Affine(float(np.float32(first.scale * second.scale * 400)), 5)
        a = rng.integers(INT8_MIN, INT8_MAX + 1, (200, 10)).astype(np.int8)
        b = rng.integers(-INT8_MAX, INT8_MAX + 1, (30, 10)).astype(np.int8)
        expected = reference("FULLY_CONNECTED", [a, b], [first, second], (200, 30), out)
        sums = tf.matmul(steps(a, first), steps(b, second), transpose_b=True)
        factor = scale_of(first) * scale_of(second) / scale_of(out)
        np.testing.assert_array_equal(
            as_int8(int8_kernels.rescaled_once(sums, factor), out), expected
        )


# Values derived by hand.


def test_a_fully_connected_layer_rounds_once():
    """6 * 0.4 = 2.4 is near 2; in two roundings 0.8 / 2 makes 5, and 5 / 2, 3."""
    six, factor = tf.constant([6.0]), tf.constant(0.4, tf.float64)
    assert int8_kernels.rescaled_once(six, factor).numpy() == [2]
    assert int8_kernels.rescaled(six, factor).numpy() == [3]


def test_scales_of_matrices_are_multiplied_in_float32():
    """The float32 nearest to 0.1 is 0.1 + 1.49e-9: its square is 0.01 + 2.98e-10, and the nearest
    float32 to that 0.01 + 7.1e-10."""
    tenth = tf.constant(np.float32(0.1), tf.float64)
    factor = float(int8_kernels.product_factor(tenth, tenth, tf.constant(1.0, tf.float64)))
    assert factor - 0.01 == pytest.approx(7.1e-10, rel=0.01)


def test_softmax_of_equal_scores_is_uniform():
    x = tf.zeros((1, 4))
    np.testing.assert_array_equal(
        int8_kernels.softmax(x, tf.constant(0.1, tf.float64)), [[64.0] * 4]
    )


def test_softmax_of_a_score_and_half_its_odds():
    """e^0 / (e^0 + e^-ln 2) = 2/3 = 170.67 / 256."""
    half = tf.constant(np.log(2), tf.float64)
    np.testing.assert_array_equal(
        int8_kernels.softmax(tf.constant([[7.0, 6.0]]), half), [[171, 85]]
    )


def test_a_vector_of_3_and_4_has_length_5():
    """128 * 3 / 5 = 76.8 and 128 * 4 / 5 = 102.4; a vector of zeros stays one."""
    x = tf.constant([[3.0, 4.0], [0.0, 0.0], [0.0, -1.0]])
    np.testing.assert_array_equal(int8_kernels.unit_length(x), [[77, 102], [0, 0], [0, -128]])


def test_fixed_point_functions_are_near_the_real_ones():
    x = np.linspace(-31.9, 0, 1000)
    given = tf.constant(np.round(x * 2**fixed_point.EXP_BITS), tf.int64)
    np.testing.assert_allclose(fixed_point.exp(given) / 2**31, np.exp(x), atol=3e-7)
    x = np.linspace(1, 200, 1000)
    given = tf.constant(np.round(x * 2**19), tf.int64)
    fraction, shift = (y.numpy() for y in fixed_point.reciprocal(given))
    np.testing.assert_allclose(fraction / 2**31 / 2.0**shift, 1 / x, rtol=3e-6)
    x = np.unique(np.logspace(0, 8.7, 1000).astype(int))
    given = tf.constant(x, tf.int64)
    fraction, exponent = (y.numpy() for y in fixed_point.inverse_square_root(given))
    np.testing.assert_allclose(fraction / 2**31 * 2.0**exponent, x**-0.5, rtol=3e-6)


def test_the_middle_of_the_series_is_exact():
    x = tf.constant([-(2**23), 0], tf.int64)  # -1/8 and 0
    expected = [round(np.exp(-1 / 8) * 2**31), 2**31 - 1]
    np.testing.assert_array_equal(fixed_point.exp(x), expected)


@pytest.mark.parametrize("factor", [0.25, 0.3, 0.5, 0.9999999999, 1.0, 1 / 3000, 6.5])
def test_a_fixed_point_factor_has_31_bits(factor):
    mantissa, exponent = (
        float(x) for x in int8_kernels.multiplier(tf.constant(factor, tf.float64))
    )
    assert 2**30 <= mantissa < 2**31
    assert mantissa == round(mantissa)
    assert mantissa / 2**31 * 2**exponent == pytest.approx(factor, rel=2**-31)


def test_a_value_is_rounded_twice():
    """Factor 1/4 = 0.5 / 2: 5 * 0.5 becomes 3, and 3 / 2 becomes 2, where 5 / 4 is near 1."""
    quarter = tf.constant(0.25, tf.float64)
    steps = int8_kernels.rescaled(tf.constant([5.0, 4.0, 6.0, -6.0, 7.0]), quarter)
    np.testing.assert_array_equal(steps, [2, 1, 2, -2, 2])
    # 0.4 = 0.8 / 2: 6 * 0.8 = 4.8 becomes 5, and 5 / 2 becomes 3, where 6 * 0.4 = 2.4 is near 2.
    twice = int8_kernels.rescaled(tf.constant([6.0]), tf.constant(0.4, tf.float64))
    np.testing.assert_array_equal(twice, [3])


@pytest.mark.parametrize(("total", "expected"), [(8, 1), (9, 2), (10, 2), (-9, -2), (14, 2)])
def test_the_mean_of_few_values_is_up_to_three_quarters_of_a_step_off(total, expected):
    """9 / 7 = 1.29: with one bit below the point, ties up, it becomes 1.5, and then 2."""
    x = tf.reshape(tf.constant([float(total)] + [0.0] * 6), (1, 7, 1, 1))
    mean = int8_kernels.mean(x, (1, 2), False, tf.constant(1.0, tf.float64))
    np.testing.assert_array_equal(mean, [[expected]])


def test_hard_swish_is_within_a_step_of_the_formula():
    scale_in, scale_out = (tf.constant(s, tf.float64) for s in (0.05, 0.03))
    steps = np.arange(-128, 120, dtype=np.float32)
    x = steps * 0.05
    expected = x * np.clip(x + 3, 0, 6) / 6 / 0.03
    got = int8_kernels.hard_swish(tf.constant(steps), scale_in, scale_out).numpy()
    assert np.abs(got - expected).max() < 1.01
