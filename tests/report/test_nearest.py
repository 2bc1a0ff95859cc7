import json
from dataclasses import asdict

import numpy as np
import pytest
from test_report import findings_of, report_of

from wakeword_keras.audio import audio_file
from wakeword_keras.errors import InputError
from wakeword_keras.report import nearest, page
from wakeword_keras.report.verdicts import Verdict
from wakeword_keras.training.hard_negatives import Heard, Pool
from wakeword_keras.training.loop import HARD_NEGATIVES


@pytest.fixture
def run(tmp_path):
    """A run whose two stages have listened; three windows, one of them of a recording."""
    audio_file.write(tmp_path / "long.wav", np.arange(16_000 * 9, dtype=np.int16) % 999)
    windows = (
        Heard("a <reader>", str(tmp_path / "long.wav"), 1.5, 0.99),
        Heard("gone", str(tmp_path / "gone.wav"), 4.0, 0.9),
        Heard("features[3]", "", 2.0, 0.8),
    )
    clips = (Heard("near/phrase.wav", "", 0.0, 0.7),)
    for stage, epoch in (("fp32", 8), ("qat", 2)):
        pool = Pool(epoch, 99, (1, 2, 3), (4,), 0.5, 0.75, 2, windows, clips)
        (tmp_path / stage).mkdir()
        content = json.dumps({"pools": [asdict(pool)]})
        (tmp_path / stage / HARD_NEGATIVES).write_text(content)
    return tmp_path


def test_the_sound_around_a_window_lies_beside_the_report(run, tmp_path):
    found = nearest.write(run, tmp_path)
    assert found.pool.epoch == 2
    assert [listed.sound for listed in found.windows] == ["hard_negatives/01.wav", "", ""]
    sound = audio_file.read(tmp_path / "hard_negatives/01.wav")
    np.testing.assert_array_equal(sound, np.arange(32_000) % 999)  # from the start to 0.5 s after


def test_the_page_lists_them_escaped_with_a_way_to_listen(run, tmp_path):
    found = nearest.write(run, tmp_path)
    verdicts = [Verdict("a", "good", "b", "c")]
    written = page.render(findings_of(report_of(warm=False)), verdicts, {}, found)
    assert "a &lt;reader&gt;" in written
    assert written.count('<a href="hard_negatives/') == 1
    assert "4.0 false accepts per hour at 0.7500" in written
    assert "near/phrase.wav" in written


def test_a_run_that_did_not_listen_has_none_and_a_damaged_file_is_named(run, tmp_path):
    assert nearest.write(tmp_path / "other", tmp_path) is None
    (run / "qat" / HARD_NEGATIVES).write_text("{")
    with pytest.raises(InputError, match=r"hard_negatives\.json is damaged"):
        nearest.write(run, tmp_path)
