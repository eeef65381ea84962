"""``--spec FILE``: what to time, written by ``kdbench.comparison.latency``."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--spec", help="JSON file with cases, images, device, threads and rounds")
