"""The protocol of a storage: all that runs do with a place, whichever kind of store it lies in.

A storage is bound to one place, as a path is: `storage_at(folder / "run.yaml").read_bytes(...)`.
Where kinds of stores can do different things, a property says what (`can_rename`, `can_append`,
`local`); what they have in common behaves the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

from engine.storage.places import Place


class Storage(Protocol):
    """What can be done with one place.

    Every method raises StoreError where an object store cannot be used, and OSError where a disk
    refuses; `errors.fault_of` tells both apart from faults of the data.
    """

    @property
    def place(self) -> Place:
        """The place that this is about."""

    @property
    def local(self) -> Path | None:
        """The place as a path for libraries that need one; None where it is on no disk."""

    @property
    def can_rename(self) -> bool:
        """Whether what was written can be given another name in one step."""

    @property
    def can_append(self) -> bool:
        """Whether a line more costs one small write, and is seen by who reads the file."""

    # one file

    def read_bytes(self, max_bytes: int) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is none.
            MalformedFileError: it is no regular file, or larger than `max_bytes`.
        """

    def open(self) -> AbstractContextManager[BinaryIO]:
        """The file of any size, read in blocks; raises as `read_bytes`."""

    def digest(self) -> str:
        """sha256 of the file of any size; raises as `read_bytes`."""

    def whole_file(self) -> AbstractContextManager[TextIO]:
        """A text to write: readers see the old file or the new one, also after a power cut."""

    def put(self, data: bytes) -> None:
        """Replace the file: readers see the old one or the new one."""

    def write_new(self, data: bytes) -> bool:
        """Create the file, whole; of several writers one succeeds.

        Returns:
            False when there was one with other bytes.
        """

    def renew(self, data: bytes) -> None:
        """Make the file new by the store's clock; its content becomes `data` or stays."""

    def modified_at(self) -> float | None:
        """When the file was written, by its store's clock; None where none is told.

        Raises:
            FileNotFoundError: it is not there.
        """

    def as_file(self) -> AbstractContextManager[Path]:
        """The file on a disk, for libraries that read files; a copy where it is on none.

        Raises:
            FileNotFoundError: it is not there (where it is copied).
        """

    def file_to_write(self) -> AbstractContextManager[Path]:
        """A file on a disk to write, for libraries that write files."""

    # a list of lines

    def append(self, line: str) -> None:
        """Add a line in a single write, so that lines of several processes do not mix.

        Raises:
            OSError: it cannot be written, or is a link or no regular file.
        """

    def gather(self) -> None:
        """Make one file of the lines that were appended, where it is none yet."""

    def appended(self, max_bytes: int) -> list[bytes]:
        """What was appended, in order, in pieces of whole lines; nothing when nothing was.

        Raises:
            MalformedFileError: a piece is no regular file, or larger than `max_bytes`.
        """

    def keep_appended(self, keeps: Callable[[str], bool]) -> None:
        """Delete pieces of lines that are files of their own, by what is in them."""

    # a folder

    def prepare(self, folders: tuple[Place, ...]) -> None:
        """Make folders in this one, or ask the store whether it can be used.

        Raises:
            OSError: they cannot be made.
        """

    def has_folder(self) -> bool:
        """Whether there is a folder of this name, or none is needed."""

    def children(self) -> list[Place]:
        """One level below, sorted; nothing where there is nothing."""

    def folder_names(self) -> set[str]:
        """Names of the folders in this one; nothing is looked at more than once."""

    def named(self, name: str) -> list[Place]:
        """What has a name in this folder, and what a killed writer of it left beside it."""

    def torn(self) -> list[Place]:
        """Files in this folder that a killed `put` or `whole_file` left half written."""

    def odd_files(self, is_read: Callable[[str], bool]) -> dict[str, str]:
        """What below this folder is no readable file: relative name -> what is wrong.

        Args:
            is_read: whether anybody asks for a file, by its relative name.
        """

    def sizes(self) -> dict[str, int]:
        """Bytes of every file below this folder, by its relative name with `/`, sorted."""

    def digests(self, is_read: Callable[[str], bool]) -> dict[str, str]:
        """sha256 of every file below that somebody asks for, by its relative name, sorted.

        Args:
            is_read: whether anybody asks for a file, by its relative name.

        Raises:
            MalformedFileError: a name that somebody asks for is no readable file.
            FileNotFoundError: a file vanished meanwhile.
        """

    def foreign_files(self, own: Collection[str]) -> Iterator[str]:
        """Names below a Zarr group that are not its own and that no reader asks for.

        Args:
            own: the names of the group's files, relative to it.

        Yields:
            Relative names; a folder in which nothing is read ends with `/`, and what is in it is
            not named.
        """

    def misplaced_links(self, own: Collection[str]) -> Iterator[str]:
        """Links, and others that are no regular files, under names that readers ask for."""

    # names and rights

    def link_target(self) -> str | None:
        """To what this name is a link; None where it is none."""

    def is_writable(self) -> bool:
        """Whether names can be made in this folder, as far as can be told without trying."""

    def absolute(self, *, writes: bool) -> Place:
        """The place as a job means it (see `engine.paths`)."""

    def lies_in(self, folder: Place) -> bool:
        """Whether this is a folder, or lies in it."""

    # deleting

    def discard(self) -> None:
        """Remove a file, a folder or a link, never what that points to; what cannot be, stays."""

    def remove(self) -> None:
        """`discard`, but what cannot be removed is an error; nothing when it is gone."""

    def remove_each(self, note: Callable[[str, BaseException], None]) -> None:
        """`remove`, which goes on where something stays.

        Args:
            note: called with the name and the reason of each thing below that stays.
        """

    def keeps_versions(self) -> bool | None:
        """Whether what is deleted here stays as an older version; None where nobody knows."""
