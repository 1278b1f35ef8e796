"""Every Python process of a cluster that looks like Databricks' imports this, by PYTHONPATH.

Its volumes are below VOLUMES instead of /Volumes, where a test may not write, and as little can be done to a
file there as FUSE does for a volume: nothing is renamed and nothing linked (earth-mover/icechunk#2341).
"""

import errno
import os

VOLUMES = os.environ["VOLUMES"]


def _without(function):
    def call(path, to, **options):
        if os.fspath(path).startswith(VOLUMES):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
        return function(path, to, **options)

    return call


for name in ("rename", "replace", "link"):
    setattr(os, name, _without(getattr(os, name)))

from spark_embed.storage import paths  # noqa: E402

paths._VOLUMES = VOLUMES
