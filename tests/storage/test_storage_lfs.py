from pathlib import Path

import pytest

from spark_embed.storage import is_lfs_pointer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"


@pytest.mark.parametrize(
    ("head", "expected"),
    [(POINTER, True), (POINTER[:64], True), (b"", False), (b"PAR1", False), (b"version 1\n", False)],
)
def test_a_pointer_is_told_by_its_first_line(head, expected):
    assert is_lfs_pointer(head) is expected


def test_pointers_of_a_real_checkout_are_known(material: Path):
    pointers = [path for path in material.glob("found/33*/*") if path.stat().st_size < 200]
    assert len(pointers) >= 3
    assert all(is_lfs_pointer(path.read_bytes()) for path in pointers)
