"""`pytest tests/simulation --seed 12345` runs one world."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="run the world of this seed alone")
