"""Errors say whose fault they are and what to do, by their kind and cause, also over processes."""

from __future__ import annotations

import errno
import pickle

import pytest

from engine import errors
from engine.errors import EngineError, StoreError, StoreUnreachableError, fault_of, remedy_of

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, EngineError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_fault_and_survives_a_pickle(kind: type[EngineError]) -> None:
    for fault in (None, "machine", "store"):
        error = kind("a.json: torn; make it again", fault=fault)
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back)) == (kind, "a.json: torn; make it again")
        assert back.fault == error.fault == (fault or kind.fault)
        assert back.remedy == "make it again"
    assert kind("no word of what to do").remedy == ""


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.ENOSPC, "machine"),
        (errno.EACCES, "machine"),
        (errno.ESTALE, "machine"),
        (errno.ENOENT, "data"),
    ],
)
def test_what_the_system_refuses_has_its_fault_in_whatever_it_becomes(
    number: int, fault: str
) -> None:
    try:
        try:
            raise OSError(number, "refused")
        except OSError:
            raise StoreError("x: cannot be written; try again") from None
    except StoreError as error:
        found = error
    assert fault_of(found) == fault_of(OSError(number, "refused")) == fault
    assert bool(remedy_of(OSError(number, "refused"))) == (fault == "machine")


def test_a_store_that_is_gone_and_memory_that_is_short() -> None:
    try:
        raise StoreUnreachableError("s3://a: the object store does not answer; look at the network")
    except StoreUnreachableError as gone:
        error = ValueError("as another kind")
        error.__cause__ = gone
    assert fault_of(error) == "store"
    short = errors.SamplingError("a: out; of memory")
    short.__cause__ = MemoryError()
    assert (fault_of(short), remedy_of(short)) == ("data", errors.MORE_MEMORY)
    assert remedy_of(ValueError("odd; try again")) == ""
