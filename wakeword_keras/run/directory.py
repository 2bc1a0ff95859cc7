"""The run directory's memory, run.json: what was asked for, and which stages are done."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from wakeword_keras.errors import InputError
from wakeword_keras.files import write_json

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy", "pymicro-features")


class RunDirectory:
    """A run directory: its settings, which stages are done, and how long each took.

    Args:
      directory: made if it does not exist.
      settings: by "name" or "part.name", everything that decides what the run computes; plain JSON
        types.
      stages: in their order, each with the file, relative to the directory, that it writes last.

    Raises:
      InputError: the directory holds a run of another configuration.
    """

    def __init__(self, directory: str | Path, settings: dict, stages: Mapping[str, str]) -> None:
        self.directory = Path(directory)
        self._stages = stages
        path = self.directory / "run.json"
        self.record = json.loads(path.read_text()) if path.exists() else {}
        # Until a stage is done nothing was made from the settings: a typing error can be mended.
        if any(self.done(stage) for stage in stages):
            _check_same(self.record["config"], settings, self.directory)
        else:
            self.record = {
                "versions": {name: version(name) for name in PACKAGES},
                "python": platform.python_version(),
                "seed": settings["seed"],
                "config": settings,
                "stages": {},
            }
            self.save()

    def path(self, *parts: str) -> Path:
        """A path inside the run directory; its folder exists."""
        path = self.directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save(self) -> None:
        """Write run.json."""
        write_json(self.path("run.json"), self.record)

    def done(self, stage: str) -> bool:
        """Whether a stage is complete and the file that it writes last is there."""
        status = self.record.get("stages", {}).get(stage, {}).get("status")
        return status == "done" and self.directory.joinpath(self._stages[stage]).exists()

    def forget(self, stages: Iterable[str]) -> None:
        """Let stages be done again."""
        for stage in stages:
            self.record["stages"].pop(stage, None)

    def once(self, stage: str, work: Callable[[], None]) -> None:
        """Do a stage's work unless it is done."""
        if not self.done(stage):
            with self._running(stage):
                work()

    @contextmanager
    def _running(self, name: str) -> Iterator[None]:
        """Mark a stage as running, then as done with the seconds it took in all."""
        number = f"[{list(self._stages).index(name) + 1}/{len(self._stages)}]"
        print(f"{number} {name}", flush=True)
        before = self.record["stages"].get(name, {}).get("seconds", 0.0)
        config_hash = hash_of(self.record["config"])
        entry = {"status": "running", "seconds": before, "config_sha256": config_hash}
        self.record["stages"][name] = entry
        self.save()
        start = time.monotonic()
        try:
            yield
            entry["status"] = "done"
        finally:
            entry["seconds"] = round(before + time.monotonic() - start, 1)
            self.save()
        print(f"{number} {name}: {entry['seconds']:.0f} s", flush=True)


def hash_of(content: object) -> str:
    """sha256 of plain JSON types."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_same(before: dict, now: dict, run_dir: Path) -> None:
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        name = differing[0]
        raise InputError(
            f"{run_dir} holds a run with `{name}`={before.get(name)}, not {now[name]}: "
            "give another `run_dir`, or the settings in its run.flags"
        )
