"""Nothing that lies in the input is left out without a word."""

import pytest

from spark_embed.datasets.detect import detect
from spark_embed.errors import ConfigError


def test_what_is_there_and_not_read_is_counted(tmp_path):
    for name in ("a.jpg", "b.HEIC", "c.heic", "d/e.tar.gz", "noext", "list.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x,y\n1,2\n")
    layout = detect(str(tmp_path), "auto", "url")
    assert layout.name == "image_folder"
    assert {kind: number for kind, (number, _) in layout.not_used.kinds.items()} == {
        ".heic": 2,
        ".tar.gz": 1,
        "without a suffix": 1,
        ".csv without a column 'url' (--url_column; it has x, y)": 1,
    }
    assert "2 .heic (such as b.HEIC)" in str(layout.not_used)


def test_a_refusal_says_what_is_there(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"it holds 1 \.tar\.gz \(a\.tar\.gz\)"):
        detect(str(tmp_path), "auto", "url")
