#!/bin/bash
# What each node of an EMR cluster does before Hadoop and Spark are installed there (a bootstrap action):
#   bootstrap.sh s3://BUCKET/spark_embed/releases/VERSION [--gpu]
# An environment with the job's packages at /opt/spark_embed, which driver and executors run, and a folder for
# models. What is there already stays: it may run again. A failure is one line with ERROR, and the cluster ends.
set -Eeuo pipefail
umask 022

readonly VENV=${BOOTSTRAP_ROOT:-}/opt/spark_embed
readonly CACHE=${BOOTSTRAP_ROOT:-}/mnt/spark_embed/cache
readonly CGROUP=${BOOTSTRAP_ROOT:-}/spark-rapids-cgroup # as emr/cluster.yaml says
readonly CPU_TORCH=https://download.pytorch.org/whl/cpu # a fifth of the one with CUDA

step="reading the arguments"
fail() {
    echo "ERROR bootstrap.sh on $(hostname): $step: $1" >&2
    exit 1
}
trap 'fail "exit code $?; the lines above say why"' ERR

release=${1:-}
[[ $release == s3://* ]] || fail "the first must be the folder of a release in S3, not '$release'"
[[ ${2:---gpu} == --gpu && $# -le 2 ]] || fail "the second may be --gpu, nothing else"

step="finding a Python of 3.11 or later"
find_python() {
    for name in python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}
python=$(find_python)
if [[ -z $python ]]; then
    step="installing Python 3.11 (dnf)"
    sudo dnf install --assumeyes --quiet python3.11 python3.11-pip
    python=$(find_python)
    [[ -n $python ]] || fail "dnf is done, but there is none"
fi

step="making the environment $VENV"
sudo mkdir -p "$VENV"
sudo chown "$(id -u):$(id -g)" "$VENV"
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$VENV"

step="fetching the release $release"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
aws s3 cp --only-show-errors "$release/constraints.txt" "$work/constraints.txt"
aws s3 cp --only-show-errors --recursive --exclude '*' --include 'spark_embed-*.whl' "$release/" "$work/"
wheels=("$work"/spark_embed-*.whl)
[[ ${#wheels[@]} -eq 1 && -f ${wheels[0]} ]] || fail "it must have one wheel, spark_embed-*.whl"

# Not pyspark: the cluster has its own, and pip's would be another version of it, of 400 MB.
step="reading what the wheel needs"
"$VENV/bin/python" - "${wheels[0]}" >"$work/requirements.txt" <<'END'
import sys
from importlib.metadata import distributions

(wheel,) = distributions(path=sys.argv[1:])
needed = [one for one in wheel.requires or () if "extra ==" not in one and not one.startswith("pyspark")]
print(*needed, sep="\n")
END

step="installing packages (pip)"
pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input --no-cache-dir)
indices=()
[[ ${2:-} == --gpu ]] || indices=(--extra-index-url "$CPU_TORCH")
"${pip[@]}" install --quiet --constraint "$work/constraints.txt" "${indices[@]}" --requirement "$work/requirements.txt"
"${pip[@]}" install --quiet --no-deps --force-reinstall "${wheels[0]}" # the version may be that of another build

step="making the folder for models $CACHE"
sudo mkdir -p "$CACHE"
sudo chmod 1777 "$CACHE" # containers run as others than this user

if [[ ${2:-} == --gpu ]]; then
    # YARN gives a container its GPUs by cgroup v1, which Amazon Linux 2023 does not mount: EMR's release guide,
    # "Use the Nvidia RAPIDS Accelerator for Apache Spark", bootstrap action for 7.x.
    step="preparing YARN's isolation of GPUs ($CGROUP)"
    sudo mkdir -p "$CGROUP/devices"
    mountpoint -q "$CGROUP/devices" || sudo mount -t cgroup -o devices cgroupv1-devices "$CGROUP/devices"
    sudo chmod -R a+rwx "$CGROUP"
fi

echo "bootstrap.sh: $("$VENV/bin/python" --version) at $VENV, release $release"
