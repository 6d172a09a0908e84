"""How a job is attacked: one bad input, one line that names it, and nothing else changed.

Each case of the tables (`test_*.py`) spoils one thing and gives the job's arguments. Whatever the
input was, the job must end by itself, before Ray is started where the whole job is refused, and
leave every byte outside its output folder as it was.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.volume import PreparedCase
from tests.runs.fakes import make_data, make_weights

_REMEDY = re.compile(r"; \w|\. Go back|\(see --help|--repair deletes")
Main = Callable[[Sequence[str]], int]


@dataclass
class Place:
    """A folder with what a job needs, made when it is asked for.

    Attributes:
        root: everything of the test lies here.
        started: what was started that should not be before a refusal.
    """

    root: Path
    started: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def data(self) -> Path:
        """Prepared cases `case0` to `case2`."""
        folder = self.root / "data"
        return folder if folder.exists() else make_data(folder)

    @property
    def weights(self) -> Path:
        """Weights that fit them."""
        folder = self.root / "weights"
        return folder if folder.exists() else make_weights(folder)

    def file(self, name: str, content: str | bytes) -> str:
        """Write a file; returns its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def edit_case(self, name: str, **changes: object) -> None:
        """Replace fields of a prepared case."""
        path = self.data / f"{name}.zarr"
        case = read_prepared(path)
        write_prepared(path, PreparedCase(**{**vars(case), **changes}))

    def usual(self, *more: str, data: bool = True) -> list[str]:
        """Arguments of a generating job."""
        args = ["--weights", str(self.weights), "--out", str(self.out), *more]
        return ["--data", str(self.data), *args] if data else args


@dataclass(frozen=True)
class Attack:
    """One bad input.

    Attributes:
        args: spoils something and returns the job's arguments.
        told: what the one line says.
        code: the job's exit code; 1 is the documented one of cases refused singly.
    """

    args: Callable[[Place], list[str]]
    expected: str
    code: int = 2


def attack(main: Main, case: Attack, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the job on bad input and judge how it ends."""
    args = case.args(place)
    before = _snapshot(place)
    capsys.readouterr()
    place.started.clear()
    code = main(args)
    shown = capsys.readouterr()
    assert code == case.code, shown
    assert "Traceback" not in shown.out + shown.err
    if code == 2:
        lines = shown.err.splitlines()
        assert not place.started, "refused before anything is started"
    else:
        expected = shown.out.splitlines() + shown.err.splitlines()
        lines = [line for line in expected if re.search(case.expected, line)][:1]
    assert len(lines) == 1, shown
    assert re.search(case.expected, lines[0]), lines[0]
    assert lines[0].isprintable(), "a terminal shows what is printed"
    output = lines[0] if code == 2 else shown.out + shown.err
    assert _REMEDY.search(output), f"no remedy: {output}"
    after = _snapshot(place)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not changed, f"only the output folder may change: {sorted(changed)}"


def _snapshot(place: Place) -> dict[str, str]:
    """Everything below the root but the output folder: names, kinds, content."""
    found = {}
    for folder, subfolders, files in os.walk(place.root):
        if Path(folder) == place.out or (Path(folder) == place.root / "raw" / "out"):
            subfolders.clear()
            continue
        for name in [*subfolders, *files]:
            path = Path(folder) / name
            if path == place.out:
                continue
            if path.is_symlink():
                found[str(path)] = f"link to {path.readlink()}"
            elif path.is_dir():
                found[str(path)] = "folder"
            else:
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
