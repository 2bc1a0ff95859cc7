import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras.training.hardness import LossWeighting
from wakeword_keras.training.losses import FocalLoss, focal_weight

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 3)).astype(np.float32)
LABELS = (FEATURES[:, :1] > 0).astype(np.float32)


def compiled(gamma):
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(keras.optimizers.SGD(0.0), FocalLoss(gamma), metrics=[LossWeighting(gamma)])
    return model


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_in_plain_compile_it_is_the_weight_of_the_hardest_tenth(gamma):
    model = compiled(gamma)
    weights = RNG.uniform(size=200)  # of the loss: no matter to hardness
    history = model.fit(FEATURES, LABELS, sample_weight=weights, verbose=0).history
    logits = model.predict(FEATURES, verbose=0)
    order = np.argsort(focal_weight(LABELS, logits, 1.0, None).numpy()[:, 0])
    weight = focal_weight(LABELS, logits, gamma, None).numpy()[order, 0]
    expected = weight[180:].mean() / weight[:180].mean()
    assert history["hardest_tenth_weight"] == pytest.approx([expected], rel=0.02)
    assert not any(name.startswith("share_") for name in history)


def test_a_model_compiled_with_it_is_saved_and_loaded(tmp_path):
    model = compiled(2.0)
    model.fit(FEATURES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    ours, theirs = (
        m.evaluate(FEATURES, LABELS, verbose=0, return_dict=True) for m in (model, again)
    )
    assert theirs == pytest.approx(ours)
    assert "hardest_tenth_weight" in theirs
