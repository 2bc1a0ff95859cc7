"""Evaluate finished runs: again, on other recordings, or side by side.

python -m tools.evaluate --run_dir=runs/happy
  Every runtime on the run's test clips; the report is written again.

python -m tools.evaluate --run_dir=runs/happy --data_dir=office --ambient_dir=radio
  The run on other recordings, all of which test, at the thresholds that it has. The report goes to
  runs/happy/report_on_office, or to --report_dir. --ambient_dir may be left out, and has to be
  where the run had none.

python -m tools.evaluate --compare runs/happy runs/happy2 runs/happy3
  One table, and one picture in runs/comparison or --report_dir. Reads the reports, scores nothing;
  takes reports on other data too (runs/happy/report_on_office runs/happy2/report_on_office).

python -m tools.evaluate --manifest=alexa.json,hey_jarvis.json --ambient_dir=radio
  Models of ESPHome's form, such as microWakeWord's, on recordings: false accepts per hour and, with
  --data_dir, missed wake words. With --run_dir the run's INT8 model stands in the same table, on
  the run's own test split or on --data_dir and --ambient_dir. --model names .tflite files that do
  not lie beside their manifests. --report_dir takes models.json.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from flags import config as flag_config
from flags import run_flags
from tools import command
from wakeword_keras.data.corpus import CorpusConfig
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation.side_by_side import Row
from wakeword_keras.firmware import esphome_manifest
from wakeword_keras.report import comparison
from wakeword_keras.run import other_recordings, pipeline, released_models
from wakeword_keras.synthesis.lines import phrase_label

# Of the run's flags, those that --helpshort is to list here, too.
flags.declare_key_flag("run_dir")
flags.declare_key_flag("data_dir")
flags.declare_key_flag("ambient_dir")
flags.declare_key_flag("wake_words")
flags.declare_key_flag("model")
flags.declare_key_flag("cache_dir")
_COMPARE = flags.DEFINE_bool("compare", False, "compare the runs that are named behind it")
_REPORT_DIR = flags.DEFINE_string(
    "report_dir", "", "where the report on other data, or the picture of --compare, is written"
)
_MANIFEST = flags.DEFINE_list(
    "manifest", [], "manifests (.json, version 2) of models of ESPHome's form, to measure"
)
# Flags may stand behind the runs that --compare names.
flags.FLAGS.set_gnu_getopt()


def main(arguments: Sequence[str]) -> None:
    """Evaluate the run in --run_dir or released models, or compare runs named as arguments."""
    if _COMPARE.value:
        comparison.compare(arguments, _REPORT_DIR.value or "runs/comparison")
        return
    command.refuse_arguments(arguments)
    other = [flags.FLAGS[name] for name in ("data_dir", "ambient_dir")]
    data, ambient = (tuple(flag.value) if flag.present else () for flag in other)
    if _MANIFEST.value:
        released_models.write(_rows_of_released(data, ambient), _REPORT_DIR.value)
        return
    config = run_flags.of_run(apart=("data_dir", "ambient_dir"))
    # The run's own flagfile names the run's own recordings.
    own = data in ((), config.data_dir) and ambient in ((), config.ambient_dir)
    if own and _REPORT_DIR.value:
        raise InputError("--report_dir: give --data_dir, other recordings, or --compare with it")
    if own:
        pipeline.repeat(config, ("report",))
        return
    if not data:
        raise InputError(
            "--ambient_dir: give --data_dir too, with other clips of "
            f"{', '.join(config.corpus.wake_words)}"
        )
    folder = Path(data[0]).resolve().name
    out = _REPORT_DIR.value or str(Path(config.run_dir, f"report_on_{folder}"))
    other_recordings.evaluate(config, data, ambient, out)


def _rows_of_released(data: Sequence[str], ambient: Sequence[str]) -> list[Row]:
    values = flags.FLAGS
    files = values.model.split(",") if values["model"].present else [None] * len(_MANIFEST.value)
    if len(files) != len(_MANIFEST.value):
        raise InputError("--model: name a file for each of --manifest, or leave it out")
    released = [*map(esphome_manifest.read, _MANIFEST.value, files)]
    if values["run_dir"].present:
        run = run_flags.of_run(apart=("data_dir", "ambient_dir", "model"))
        return released_models.evaluate_beside(run, released, data, ambient)
    words = values.wake_words or dict.fromkeys(phrase_label(model.wake_word) for model in released)
    config = flag_config.read(CorpusConfig, wake_words=tuple(words))
    return released_models.evaluate(released, config, data, ambient, values.cache_dir)


if __name__ == "__main__":
    command.run(main)
