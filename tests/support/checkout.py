"""Where things are beside the tests."""

from pathlib import Path

TESTS = Path(__file__).parent.parent
REPOSITORY = Path(__file__).parent.parent.parent
MATERIAL = REPOSITORY.parent / "shared" / "material"
