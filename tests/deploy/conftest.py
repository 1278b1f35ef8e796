"""Fixtures of the tests that execute the shell of GitHub's workflows."""

import pytest

from support.checkout import REPOSITORY
from support.commands import BIN
from support.workflows import Programs, Runner


@pytest.fixture
def programs(tmp_path) -> Programs:
    """What stands for AWS's, Databricks' and GitHub's programs."""
    return Programs(tmp_path)


@pytest.fixture
def runner(tmp_path, programs):
    """Make a runner whose `${{ a.b }}` is given as `a__b`."""

    def runner(checkout=REPOSITORY, **context: str) -> Runner:
        named = {key.replace("__", "."): value for key, value in context.items()}
        return Runner(tmp_path / "runner", checkout, named, (programs.folder, BIN))

    return runner
