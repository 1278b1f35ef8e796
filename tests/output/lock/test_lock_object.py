"""The object of a lock in S3, by itself: who lets go of it late takes nothing from another."""

import pytest

from spark_embed.output.lock.file import ObjectLockFile
from spark_embed.storage import exists, read_text, write_text

pytestmark = pytest.mark.usefixtures("short_s3_pauses")


@pytest.fixture
def path(bucket) -> str:
    return f"s3a://{bucket}/out/_spark_embed/lock.json"


@pytest.fixture
def made(path) -> ObjectLockFile:
    file = ObjectLockFile(path)
    assert file.create("ours")
    return file


def test_it_is_deleted(path, made):
    made.delete()
    assert not exists(path)


def test_another_that_has_taken_its_place_stays(path, made):
    write_text(path, "another's")
    made.delete()
    assert read_text(path) == "another's"


def test_one_that_is_gone_is_no_obstacle(path, made):
    made.delete()
    made.delete()


@pytest.mark.parametrize("conditional", ["refused", "ignored"])
def test_a_store_that_deletes_without_conditions_only_is_enough(path, bad_s3, conditional):
    file = ObjectLockFile(path)
    assert file.create("ours")
    bad_s3.conditional = conditional
    file.delete()
    assert not exists(path)


def test_a_deletion_whose_answer_was_lost_is_one(path, bad_s3):
    file = ObjectLockFile(path)
    assert file.create("ours")
    bad_s3.fail_next("DeleteObject", "cut")
    file.delete()
    assert bad_s3.requests["DeleteObject"] == 2
    assert not exists(path)
