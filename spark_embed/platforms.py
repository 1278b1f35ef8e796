"""Which managed Spark this driver runs on, if any: a platform has its own way to S3, and its own settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

Platform = Literal["emr", "databricks"]

_DATABRICKS_VARIABLE = "DATABRICKS_RUNTIME_VERSION"  # in the environment of every driver there

# EMR Serverless sets the variable. The first folder is on every node of a cluster on EC2, the second, with
# EMR's own jars, also in the images of EMR on EKS and of EMR Serverless.
_EMR_VARIABLE = "SERVERLESS_EMR_JOB_ID"
_EMR_FOLDERS = ("/emr/instance-controller", "/usr/share/aws/emr")


def platform(environ: Mapping[str, str] = os.environ, root: str = "/") -> Platform | None:
    """Return the platform by what it leaves in the environment and on the disk below `root`."""
    if _DATABRICKS_VARIABLE in environ:
        return "databricks"
    folders = (os.path.join(root, folder.lstrip("/")) for folder in _EMR_FOLDERS)
    return "emr" if _EMR_VARIABLE in environ or any(map(os.path.isdir, folders)) else None
