"""What the soak says of its readings; the loops themselves are run by `make soak`."""

from __future__ import annotations

import pytest

from tests.soak import WARM_UP, Reading, summary, trend


def test_the_slope_is_that_of_least_squares_with_students_interval():
    found = trend([1.0, 2.0, 2.0, 4.0])
    # By hand: slope 4.5 / 5; residuals 0.1, 0.2, -0.7, 0.4 with squares 0.7 over 2 degrees; t = 4.302653.
    assert found["per_loop"] == pytest.approx(0.9)
    half = 4.302653 * (0.7 / 2 / 5) ** 0.5
    assert found["per_loop_ci95"] == [pytest.approx(0.9 - half, abs=1e-5), pytest.approx(0.9 + half, abs=1e-5)]
    assert not found["grows"]
    assert (found["first"], found["last"], found["most"]) == (1.0, 4.0, 4.0)


def test_what_grows_is_told_from_what_stays():
    assert trend([10.0, 11.1, 11.9, 13.0, 14.1])["grows"]
    assert not trend([10.0, 10.0, 10.0])["grows"]
    assert not trend([14.1, 13.0, 11.9])["grows"]


def test_the_warm_up_does_not_count():
    rising = [Reading(100.0 + 50 * min(i, WARM_UP), 10, 3, 1000, 0, 0) for i in range(WARM_UP + 4)]
    found = summary(rising)
    assert found["memory_mib"]["first"] == found["memory_mib"]["last"]
    assert not found["memory_mib"]["grows"]
    assert set(found) == {"memory_mib", "descriptors", "threads", "objects", "tmp_files", "children"}
