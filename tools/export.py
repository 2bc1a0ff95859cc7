"""Export a finished run again: TFLite files, thresholds, report and bundle.

python -m tools.export --run_dir=runs/happy
"""

from collections.abc import Sequence

from flags import run_flags
from tools import command
from wakeword_keras.run import pipeline


def main(arguments: Sequence[str]) -> None:
    """Do the last stages of the run in --run_dir again."""
    command.refuse_arguments(arguments)
    pipeline.run(run_flags.of_run(), again=("export", "thresholds", "report", "firmware"))


if __name__ == "__main__":
    command.run(main)
