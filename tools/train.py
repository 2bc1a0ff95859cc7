"""The whole line: recordings or a phrase -> FP32 -> calibration -> QAT -> INT8 -> report -> bundle."""

from absl import app

from flags import run_flags
from tools.command import run_command
from wakeword_keras import pipeline


def main(argv: list[str]) -> None:
    """Train what the flags describe and print the report's table."""
    config = run_flags.read()
    pipeline.write_flags(config.run_dir, run_flags.replayable())
    pipeline.run(config)


if __name__ == "__main__":
    app.run(lambda argv: run_command(main, argv))
