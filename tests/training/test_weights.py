import io
import zipfile

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras import InputError
from wakeword_keras.training import weights


def model_of(units=3):
    x = inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(units)(x))
    return keras.Model(inputs, x)


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def refused(path, named):
    with pytest.raises(InputError) as error:
        weights.load(model_of(), path)
    assert str(path) in str(error.value)
    assert named in str(error.value), error.value


def test_a_model_gets_the_weights_that_were_saved_bit_for_bit(tmp_path):
    saved, loaded = model_of(), model_of()
    weights.save(saved, tmp_path / "weights.npz")
    weights.load(loaded, tmp_path / "weights.npz")
    for a, b in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_flipped_bit_anywhere_is_named_or_changes_no_weight(tmp_path):
    path = tmp_path / "weights.npz"
    saved = model_of()
    weights.save(saved, path)
    content = path.read_bytes()
    refusals = 0
    for at in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        loaded = model_of()
        try:
            weights.load(loaded, path)
        except InputError:
            refusals += 1
        else:
            for a, b in zip(saved.get_weights(), loaded.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    assert refusals > 0.3 * len(content) / 3


def test_what_is_no_weights_file_of_this_model_is_named(tmp_path):
    path = tmp_path / "weights.npz"
    refused(path, "missing")
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" * 9):
        path.write_bytes(content)
        refused(path, "damaged")
    weights.save(model_of(units=2), path)
    refused(path, "of another model")
    path.write_bytes(npz(**{"weights/0000": np.array(["text"])}))
    refused(path, "of another model")


def test_neither_pickles_nor_compressed_or_huge_arrays_are_read(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(npz(**{"weights/0000": np.array([{"a": 1}], dtype=object)}))
    refused(path, "damaged")
    content = io.BytesIO()
    np.savez_compressed(content, **{"weights/0000": np.zeros((4, 3), np.float32)})
    path.write_bytes(content.getvalue())
    refused(path, "compressed")
    # The header asks for 4 TB.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/0000.npy", header.getvalue() + bytes(16))
    refused(path, "damaged")


def test_layers_that_hold_code_in_place_of_weights_do_not_run(tmp_path):
    ran = tmp_path / "ran"
    name = str(ran)
    payload = keras.layers.Lambda(lambda x: (open(name, "w").close(), x)[1], input_shape=(4,))
    model = keras.Sequential([payload])
    ran.unlink()  # the payload runs while a model is built
    model.save(tmp_path / "model.h5")
    (tmp_path / "weights.npz").write_bytes((tmp_path / "model.h5").read_bytes())
    refused(tmp_path / "weights.npz", "damaged")
    assert not ran.exists()
