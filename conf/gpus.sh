#!/bin/sh
# The GPUs of this machine, as Spark wants to be told (spark.executor.resource.gpu.discoveryScript in gpu.conf).
# Spark's own getGpusResources.sh, among its examples, does the same; pip's pyspark comes without it.
set -e
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader)
echo "{\"name\": \"gpu\", \"addresses\": [$(echo "$indices" | sed 's/.*/"&"/' | paste -sd, -)]}"
