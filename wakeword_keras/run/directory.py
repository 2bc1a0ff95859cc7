"""The run directory's memory, run.json: what was asked for, which stages are done, what they wrote.

run.json is sealed and holds the sha256 of every file that a later stage reads. Whoever opens a run
checks them: a file that is not what was written is an error, one that is lost is made again.
"""

import fcntl
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wakeword_keras import json_file
from wakeword_keras.errors import InputError
from wakeword_keras.files import sha256
from wakeword_keras.progress import say

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy", "pymicro-features")
FILE = "run.json"

_REPEAT = "repeat the command that began the run"
_STAGE = json_file.fields(
    status={"enum": ["running", "done"]},
    seconds={"type": "number", "minimum": 0},
    config_sha256=json_file.SHA256,
    files=json_file.dictionary(json_file.SHA256),
)
_RECORD = json_file.fields(
    versions=json_file.dictionary({"type": "string"}),
    python={"type": "string"},
    seed={"type": "integer"},
    config={"type": "object"},
    stages=json_file.dictionary(_STAGE),
)
_RECORD["properties"] |= {
    "data_sha256": json_file.SHA256,
    "impulse_responses_sha256": json_file.SHA256,
    "features_sha256": json_file.SHA256,
    "shards": {"type": "string", "pattern": r"^clips-\w+$"},
}


class RunDirectory:
    """A run directory: its settings, which stages are done, and how long each took.

    Args:
      directory: made if it does not exist, unless `allowed` is given.
      settings: by "name" or "part.name", everything that decides what the run computes; plain JSON
        types.
      stages: in their order, each with the files, relative to the directory, that others read; the
        one that it writes last first, the others may be missing.
      allowed: the stages that may be done, and are done again; all that are not done if None. With
        stages given the directory has to hold a run, of which nothing else is written.

    Raises:
      InputError: the directory holds a run of another configuration, a file that is not what a
        stage wrote, or no run where there has to be one.
    """

    def __init__(
        self,
        directory: str | Path,
        settings: dict,
        stages: Mapping[str, Sequence[str]],
        allowed: Collection[str] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._stages = stages
        self._allowed = tuple(stages) if allowed is None else tuple(allowed)
        self._redone = tuple(allowed or ())
        path = self.directory / FILE
        new = allowed is None and not path.exists()
        self.record: dict[str, Any] = {"stages": {}} if new else read_record(path)
        # Until a stage is done nothing was made from the settings: a typing error can be mended.
        if allowed is not None or any(self.done(stage) for stage in stages):
            _check_same(self.record["config"], settings, self.directory)
            self._check_files()
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
        json_file.write_sealed(self.path(FILE), self.record)

    def done(self, stage: str) -> bool:
        """Whether a stage is complete and the files that it wrote are there."""
        entry = self.record["stages"].get(stage, {"status": ""})
        return entry["status"] == "done" and not self._lost(stage)

    def forget(self, stages: Iterable[str]) -> None:
        """Let stages be done again."""
        for stage in stages:
            self.record["stages"].pop(stage, None)

    def once(self, stage: str, work: Callable[[], None]) -> None:
        """Do a stage's work unless it is done.

        Raises:
          InputError: it is not done, and the run was opened to be read.
        """
        if self.done(stage):
            return
        self.check(stage)
        with self._running(stage):
            work()

    def check(self, stage: str) -> None:
        """Raise InputError where a stage is not done, and the run was opened to be read."""
        if not self.done(stage) and stage not in self._allowed:
            why = f"{self._lost(stage)[0]} is missing" if self._lost(stage) else "it is not done"
            raise InputError(f"{self.directory} has no {stage} stage, {why}: {_REPEAT}")

    def _lost(self, stage: str) -> list[str]:
        written = self.record["stages"].get(stage, {}).get("files", {})
        known = [name for name in self._stages[stage] if name in written]
        return [name for name in known if not (self.directory / name).exists()]

    def _check_files(self) -> None:
        for stage, names in self._stages.items():
            written = self.record["stages"].get(stage, {}).get("files", {})
            if self.done(stage) and stage not in self._redone:
                for name in names:
                    check_file(self.directory / name, written.get(name))

    @contextmanager
    def _running(self, name: str) -> Iterator[None]:
        """Mark a stage as running, then as done with the seconds it took in all."""
        number = f"[{list(self._stages).index(name) + 1}/{len(self._stages)}]"
        say(f"{number} {name}")
        before = self.record["stages"].get(name, {}).get("seconds", 0.0)
        config_hash = json_file.digest(self.record["config"])
        entry = {"status": "running", "seconds": before, "config_sha256": config_hash, "files": {}}
        self.record["stages"][name] = entry
        self.save()
        start = time.monotonic()
        try:
            yield
            paths = {file: self.directory / file for file in self._stages[name]}
            entry["files"] = {file: sha256(path) for file, path in paths.items() if path.exists()}
            entry["status"] = "done"
        finally:
            entry["seconds"] = round(before + time.monotonic() - start, 1)
            self.save()
        say(f"{number} {name}: {entry['seconds']:.0f} s")


@contextmanager
def locked(directory: str | Path) -> Iterator[None]:
    """Hold a run directory against other processes that write to it; it is made if missing.

    Raises:
      InputError: another process holds it.
    """
    path = Path(directory, "run.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{directory} is being written by another process: wait for it, or give another "
                "`run_dir`"
            ) from None
        yield


def read_record(path: Path) -> dict[str, Any]:
    """Read a run.json.

    Raises:
      InputError: it is missing or damaged.
    """
    return json_file.read(path, _RECORD, f"delete it and {_REPEAT}", sealed=True)


def check_file(path: Path, expected: str | None) -> None:
    """Raise InputError where a file is not the one whose sha256 was written down; it may be lost.

    Args:
      path: the file.
      expected: None where no such file was written.
    """
    if path.exists() and sha256(path) != expected:
        raise InputError(f"{path} is not what the run wrote: delete it and {_REPEAT}")


def _check_same(before: dict, now: dict, run_dir: Path) -> None:
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        name = differing[0]
        raise InputError(
            f"{run_dir} holds a run with `{name}`={before.get(name)}, not {now[name]}: "
            "give another `run_dir`, or the settings in its run.flags"
        )
