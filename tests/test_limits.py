"""Files, functions and rooms stay within the limits of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_LINES, MAX_FUNCTION, MAX_ROOM = 350, 50, 12
LONGER_FILES: dict[str, int] = {}
LONGER_FUNCTIONS: dict[str, int] = {}
LARGER_ROOMS: dict[str, int] = {}
"""What is over a limit, and by how much at most: shrink it, and take it out here."""


def sources(*folders: str) -> list[str]:
    command = ["git", "ls-files", *(f"{folder}/*.py" for folder in folders)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split() if (ROOT / name).is_file()]
    if not names:  # not a checkout, but an unpacked copy of one
        names = [
            path.relative_to(ROOT).as_posix()
            for folder in folders
            for path in (ROOT / folder).rglob("*.py")
        ]
    return names


ALL = sources("engine", "models", "cluster", "jobs", "benchmarks", "tests")


def test_no_file_is_too_long() -> None:
    lengths = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in ALL}
    over = {n: k for n, k in lengths.items() if k > LONGER_FILES.get(n, MAX_LINES)}
    assert not over, f"split these by subject ({MAX_LINES} lines at most)"


def test_no_function_is_too_long() -> None:
    over = {}
    for name in ALL:
        for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                key = f"{name}: {node.name}"
                if length > LONGER_FUNCTIONS.get(key, MAX_FUNCTION):
                    over[key] = length
    assert not over, f"split these ({MAX_FUNCTION} lines at most)"


def test_no_room_is_too_large() -> None:
    """Of tests, rooms mirror those of the engine and may hold more."""
    rooms = Counter(Path(n).parent.as_posix() for n in sources("engine", "models", "cluster"))
    over = {room: k for room, k in rooms.items() if k > LARGER_ROOMS.get(room, MAX_ROOM)}
    assert not over, f"divide these ({MAX_ROOM} files at most)"


def test_nobody_outside_the_storage_asks_which_kind_it_is() -> None:
    """`isinstance(place, Path | ObjectPath)`: what a storage can do is asked instead."""
    asked = []
    for name in sources("engine", "jobs", "cluster"):
        if name.startswith("engine/storage/"):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "isinstance":
                continue
            if "ObjectPath" in ast.unparse(node):
                asked.append(f"{name}:{node.lineno}")
        if "storage.objects" in (ROOT / name).read_text("utf-8"):
            asked.append(f"{name}: imports engine.storage.objects")
    assert not asked
