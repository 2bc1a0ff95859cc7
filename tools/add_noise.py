"""Copy a data folder with noise in every recording, to measure a run in noise.

python -m tools.add_noise --data_dir=office --noise_dir=kitchen --snr_db=10 --out_dir=office_10_db
python -m tools.evaluate --run_dir=runs/happy --data_dir=office_10_db --ambient_dir=radio
Take noise that did not train the run. The ratio is that of the speech alone, its pauses left out
(ITU-T P.56), to the noise beneath it.
"""

from collections.abc import Sequence

from absl import flags

from tools import command
from wakeword_keras.data import noisy_copy

_DATA_DIR = flags.DEFINE_list("data_dir", None, "folders of recordings, <label>/<clips>")
_NOISE_DIR = flags.DEFINE_list("noise_dir", None, "folders of noise, whatever lies below them")
_SNR_DB = flags.DEFINE_float("snr_db", 10.0, "level of the speech over that of the noise, in dB")
_OUT_DIR = flags.DEFINE_string("out_dir", None, "data folder to make")
flags.mark_flags_as_required(["data_dir", "noise_dir", "out_dir"])


def main(arguments: Sequence[str]) -> None:
    """Write the copy and say where."""
    command.refuse_arguments(arguments)
    count = noisy_copy.write(_DATA_DIR.value, _NOISE_DIR.value, _SNR_DB.value, _OUT_DIR.value)
    print(f"{count} recordings at {_SNR_DB.value:g} dB: {_OUT_DIR.value}/")


if __name__ == "__main__":
    command.run(main)
