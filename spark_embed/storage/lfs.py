"""What Git leaves in a checkout where a large file should be: a pointer; knows no kind of file."""

from __future__ import annotations

_START = (
    b"version https://git-lfs.github.com/spec/v1"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
)

LFS_POINTER = "a Git LFS pointer, not the file itself: run `git lfs pull` in the checkout that it came from"
"""What is said of one, after the file's name."""


def is_lfs_pointer(head: bytes) -> bool:
    """Say whether a file that begins with `head` (43 bytes or more) is a pointer to one."""
    return head.startswith(_START)
