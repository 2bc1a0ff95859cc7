"""Export a finished run again: TFLite files, thresholds, report and bundle; or check a bundle.

python -m tools.export --run_dir=runs/happy
python -m tools.export --verify=runs/happy/firmware
  Every file against its hash, the golden outputs against TFLite Micro; exit code 1 on damage.
"""

from collections.abc import Sequence

from absl import flags

from flags import run_flags
from tools import command
from wakeword_keras.firmware.verify import verify
from wakeword_keras.run import pipeline

# Of the run's flags, those that --helpshort is to list here, too.
flags.declare_key_flag("run_dir")
flags.declare_key_flag("cache_dir")
_VERIFY = flags.DEFINE_string("verify", "", "firmware folder to check; nothing is exported")


def main(arguments: Sequence[str]) -> None:
    """Do the last stages of the run in --run_dir again, or check the bundle in --verify."""
    command.refuse_arguments(arguments)
    if _VERIFY.value:
        print("\n".join(verify(_VERIFY.value)))
        return
    pipeline.repeat(run_flags.of_run(), ("export", "thresholds", "report", "firmware"))


if __name__ == "__main__":
    command.run(main)
