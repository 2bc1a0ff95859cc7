import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras.models import mobilenet_v3
from wakeword_keras.models.mobilenet_v3 import divisible, mobilenet_v3_large, mobilenet_v3_small

SIZES = {
    "small": (mobilenet_v3_small, keras.applications.MobileNetV3Small, 1024),
    "large": (mobilenet_v3_large, keras.applications.MobileNetV3Large, 1280),
}


def paper_model(build, frames, channels, width, minimalistic, **options):
    return build(
        (frames, channels, 1),
        alpha=width,
        minimalistic=minimalistic,
        weights=None,
        include_preprocessing=False,
        **options,
    )


def shapes(model, kind):
    return [
        (tuple(layer.output_shape[1:]), [tuple(w.shape) for w in layer.weights])
        for layer in model.layers
        if type(layer).__name__ == kind
    ]


def lively(weight, rng):
    """Fresh weights with no symmetry left, large enough that signals reach the output."""
    if weight.ndim > 1:
        return weight * 3
    return weight * rng.uniform(0.8, 1.2, weight.shape) + (weight == 0) * rng.normal(
        0, 0.3, weight.shape
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("width", "minimalistic"), [(0.5, False), (0.75, False), (1.0, False), (1.0, True)]
)
def test_shapes_and_parameters_are_those_of_the_reference(size, width, minimalistic):
    build, reference_of, _ = SIZES[size]
    model = build(98, 40, 1, width=width, minimalistic=minimalistic)
    reference = paper_model(reference_of, 98, 40, width, minimalistic, include_top=False)
    logit = model.get_layer("logit").count_params()
    assert model.count_params() - logit == reference.count_params()
    for kind in ("Conv2D", "DepthwiseConv2D", "BatchNormalization", "Add"):
        assert shapes(model, kind) == shapes(reference, kind)


@pytest.mark.parametrize("size", SIZES)
def test_with_the_papers_head_the_parameters_are_those_of_the_whole_reference(size):
    build, reference_of, head = SIZES[size]
    model = build(32, 40, 3, width=0.5, head_channels=head)
    reference = paper_model(reference_of, 32, 40, 0.5, False, classes=3)
    assert model.count_params() == reference.count_params()


@pytest.mark.parametrize(
    ("size", "frames", "minimalistic"),
    [("small", 49, False), ("small", 33, True), ("large", 64, False)],
)
def test_with_the_references_weights_the_outputs_are_the_references(size, frames, minimalistic):
    """Frames odd and even at every stride: the padding is the reference's own too."""
    keras.utils.set_random_seed(0)
    build, reference_of, head = SIZES[size]
    model = build(frames, 40, 2, width=0.5, minimalistic=minimalistic, head_channels=head)
    reference = paper_model(
        reference_of, frames, 40, 0.5, minimalistic, classes=2, classifier_activation=None
    )
    rng = np.random.default_rng(1)
    uneven = [lively(w, rng) for w in reference.get_weights()]
    reference.set_weights(uneven)
    model.set_weights(
        [new.reshape(old.shape) for new, old in zip(uneven, model.get_weights(), strict=True)]
    )
    images = rng.uniform(0, 26, (3, frames, 40, 1)).astype(np.float32)
    expected = reference(images, training=False).numpy()
    got = model(images[..., 0], training=False).numpy()
    spread = np.ptp(expected, axis=0).min()
    assert spread > 1e-3, "the outputs must depend on the images"
    np.testing.assert_allclose(got, expected, atol=1e-3 * spread)


def test_channels_are_rounded_to_eights_but_never_down_by_more_than_a_tenth():
    assert [divisible(c) for c in (1, 12, 20, 88, 10.9, 18)] == [8, 16, 24, 88, 16, 24]


def test_a_saved_model_loads_without_being_told_of_its_layers(tmp_path):
    model = mobilenet_v3_small(32, 32, 1, width=0.25)
    path = tmp_path / "model.keras"
    model.save(path)
    features = np.random.default_rng(0).uniform(0, 26, (2, 32, 32)).astype(np.float32)
    loaded = keras.models.load_model(path, compile=False)
    np.testing.assert_array_equal(loaded(features), model(features))


def test_the_tables_end_where_the_papers_do():
    assert [(len(t), t[-1].filters) for t in (mobilenet_v3.SMALL, mobilenet_v3.LARGE)] == [
        (11, 96),
        (15, 160),
    ]
