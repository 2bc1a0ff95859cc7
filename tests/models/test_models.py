import numpy as np
import pytest

from wakeword_keras import models
from wakeword_keras.errors import InputError
from wakeword_keras.models.ds_cnn import ds_cnn


def test_every_architecture_maps_features_to_one_logit_a_wake_word():
    for name in models.ARCHITECTURES:
        model = models.build(name, 182, 40, 3)
        assert model(np.zeros((2, 182, 40), np.float32)).shape == (2, 3)
        assert model.layers[-1].activation.__name__ == "linear"


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(InputError, match="ds_cnn"):
        models.build("resnet", 98, 40, 1)


def test_the_mlperf_tiny_shape_has_its_parameter_count():
    # By hand: 10*4*64 + 4*(3*3*64 + 64*64) weights, 9 batch norms of 64 * (2 trained, 2 kept),
    # and 64*12 + 12. MLPerf Tiny's own count, 24,908, holds 9 * 64 convolution biases besides,
    # which a batch norm behind them makes redundant.
    model = ds_cnn(49, 10, 12, filters=64, first_stride=(2, 2))
    by_hand = 10 * 4 * 64 + 4 * (9 * 64 + 64 * 64) + 9 * 64 * 4 + 64 * 12 + 12
    assert model.count_params() == by_hand == 24_908 - 9 * 64
    assert model.get_layer("first").output_shape == (None, 25, 5, 64)
    assert model.get_layer("block4_pointwise_relu").output_shape == (None, 25, 5, 64)
