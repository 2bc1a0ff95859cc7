import shutil

from tools import describe
from wakeword_keras import models
from wakeword_keras.tflite import convert, streaming


def test_files_of_one_name_in_two_folders_have_each_a_row(tmp_path, capsys):
    window = convert.float_model(
        models.build("mixed_conv_small", models.STREAMING["mixed_conv_small"], 40, 1)
    )
    files = [tmp_path / folder / "model.tflite" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
    files[0].write_bytes(streaming.to_bytes(streaming.stream(window)))
    shutil.copy(*files)
    describe.main([str(file) for file in files])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [str(file) for file in files]
