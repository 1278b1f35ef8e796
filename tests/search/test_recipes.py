"""What docs/search.md says of other systems is run as it stands there, as far as they are installed here."""

import re

import numpy as np

from support.checkout import REPOSITORY
from support.vector_sets import clustered, publish_vectors


def test_duckdb_finds_the_nearest_in_the_files(tmp_path, monkeypatch):
    vectors = clustered(300)
    publish_vectors(tmp_path / "demo/vectors", {"a": vectors})
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs/search.md").read_text()
    [program] = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "duckdb" in one]
    names: dict = {}
    exec(program, names)
    found = names["nearest"].fetchall()
    truth = np.argsort(-(vectors @ np.asarray(names["query"], np.float32)))[:10]
    assert [image_id for image_id, _ in found] == [f"a-{row}" for row in truth]
