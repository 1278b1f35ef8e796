"""Give an image's Spark its jars for S3 and the archive of its classes: a start then fetches nothing.

Usage: python bake_spark.py PACKAGE

Both change with the code, and the environment, which is gigabytes, with constraints.txt alone. So they do not
stay in it: they are moved below the folder PACKAGE, to the paths that they will have in the image.
"""

import os
import shutil
import sys
from pathlib import Path

import make_class_archive

from spark_embed.spark.s3.jars import find_packages, spark_home
from spark_embed.spark.s3.maven import fetch_jars
from spark_embed.spark.session import class_archive


def add_jars(home: str) -> list[Path]:
    """Put the jars for S3 among Spark's own, with times that stay, and return them there."""
    wanted = find_packages(home, "slim")
    added = []
    for jar in map(Path, fetch_jars(home, wanted.packages, wanted.excludes)):
        there = Path(home, "jars", jar.name)
        shutil.copyfile(jar, there)
        # The archive fits jars of the size and time that they had, and a build may set all times to this one.
        os.utime(there, (int(os.environ["SOURCE_DATE_EPOCH"]),) * 2)
        added.append(there)
    return added


def main() -> None:
    """Make both and move them."""
    package = Path(sys.argv[1])
    jars = add_jars(spark_home())
    make_class_archive.main()
    for made in [*jars, class_archive(), make_class_archive.spark_env()]:
        there = package / made.relative_to("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, there)


if __name__ == "__main__":
    main()
