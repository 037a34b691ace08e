"""Errors go from process to process: a pool of workers hands them on."""

from __future__ import annotations

import copy
import pickle

import pytest

import mq


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        mq.UsageError("a bad name"),
        mq.StaleReceipt((3, 4)),
        mq.StoreLocked("/data", 7),
        mq.StoreFailed("/data", "why"),
        mq.CorruptStore("/data", "why", 12, (3,)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_elsewhere(error, again):
    other = again(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)
