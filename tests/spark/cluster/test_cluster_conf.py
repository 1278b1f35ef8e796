"""What is wrong with a cluster's settings: each in one line that names setting, value and cure."""

import re

import pytest

from spark_embed.errors import ConfigError
from spark_embed.spark.cluster.conf import check_gpu_tasks, check_local, check_settings, planned_slots

CLUSTER = {"spark.master": "spark://host:7077"}
GPU = "spark.executor.resource.gpu.amount"
TASK_GPU = "spark.task.resource.gpu.amount"
MEMORY = "spark.executor.pyspark.memory"
DYNAMIC = {"spark.dynamicAllocation.enabled": "true"}
IDLE = "spark.dynamicAllocation.executorIdleTimeout"
MOST = "spark.dynamicAllocation.maxExecutors"


@pytest.mark.parametrize(
    ("conf", "stops", "said"),
    [
        ({TASK_GPU: "1", GPU: "1", "spark.master": "local[2]"}, True, "in local mode Spark has no GPUs"),
        ({TASK_GPU: "1", "spark.master": "local[2]"}, True, "in local mode Spark has no GPUs"),
        ({TASK_GPU: "1", GPU: "1", "spark.master": "local-cluster[1,2,1024]"}, False, None),
        ({GPU: "1", "spark.master": "local[2]"}, False, None),  # Spark takes no notice
        ({TASK_GPU: "1"}, True, f"without {GPU}"),
        ({TASK_GPU: "1", GPU: "2"}, False, None),
        ({TASK_GPU: "0.25", GPU: "1"}, False, "4 tasks share a GPU"),
        ({TASK_GPU: "2", GPU: "2"}, False, "the others idle"),
        ({MEMORY: "512m"}, True, "torch needs 5 GiB"),
        ({MEMORY: "512m", "spark.master": "local[2]"}, True, "torch needs 5 GiB"),
        ({MEMORY: "2048"}, True, "torch needs 5 GiB"),  # mebibytes
        ({MEMORY: "8g"}, False, "leave it out"),
        ({MEMORY: "8g", "spark.executor.cores": "2"}, True, "4,096 MiB for each of 2 cores"),
        ({"spark.speculation": "true"}, False, "no row comes twice"),
        ({"spark.speculation": "false"}, False, None),
        ({"spark.speculation": "true", "spark.master": "local[2]"}, False, None),  # does nothing there
        (DYNAMIC, False, f"that idle for 60s are removed.*set {IDLE} 300s and {MOST}, by which"),
        ({**DYNAMIC, IDLE: "10m"}, False, f"set {MOST}"),
        ({**DYNAMIC, MOST: "20"}, False, f"set {IDLE} 300s; or"),
        ({**DYNAMIC, MOST: "20", IDLE: "600"}, False, None),
        ({}, False, None),
    ],
)
def test_a_setting_is_told_with_its_value_and_what_to_set(conf, stops, said):
    found = check_settings({**CLUSTER, **conf})
    assert len(found) == (said is not None)
    for finding in found:
        assert finding.error is (ConfigError if stops else None)
        assert any(f"{name} {value}" in finding.text for name, value in conf.items())
        assert re.search(said, finding.text), finding.text
        assert "\n" not in finding.text


@pytest.mark.parametrize(
    ("cores", "gpus", "cpus", "task_gpus", "said"),
    [
        (8, 1, 8, 1, None),
        (8, 2, 4, 1, None),
        (9, 2, 4, 1, None),  # a core that no task can have
        (8, 1, 1, 1, "7 cores idle.*spark.task.cpus 8"),
        (8, 2, 2, 1, "4 cores idle.*spark.task.cpus 4"),
        (8, 4, 8, 1, "3 GPUs idle; set spark.task.cpus 2"),
        (8, 1, 1, None, "8 tasks at once.*set spark.task.resource.gpu.amount 1 and spark.task.cpus 8"),
        (8, 1, 8, None, None),  # one task, which has the one GPU
        (2, 4, 1, 1, "2 GPUs idle; set spark.task.cpus 1"),
    ],
)
def test_a_task_should_own_its_gpus_part_of_the_cores(cores, gpus, cpus, task_gpus, said):
    conf = {GPU: str(gpus), "spark.task.cpus": str(cpus)}
    conf |= {TASK_GPU: str(task_gpus)} if task_gpus else {}
    found = [finding.text for finding in check_gpu_tasks(conf, cores)]
    assert len(found) == (said is not None)
    assert not said or re.search(said, found[0]), found


@pytest.mark.parametrize(
    ("n_slots", "n_gpus", "said"), [(8, 0, False), (1, 1, False), (8, 1, True), (2, 4, True)]
)
def test_tasks_that_share_this_machines_gpu_are_told(n_slots, n_gpus, said):
    found = check_local({"spark.task.cpus": "2"}, n_slots, n_gpus)
    assert [f"spark.task.cpus={2 * n_slots}" in finding.text for finding in found] == [True] * said


@pytest.mark.parametrize(
    ("conf", "n_slots"),
    [
        ({}, 2),
        ({MOST: "50", "spark.executor.cores": "4"}, 2),  # dynamic allocation is off
        (DYNAMIC, 2),  # no limit is no number
        ({**DYNAMIC, MOST: "50", "spark.executor.cores": "4"}, 200),
        ({**DYNAMIC, MOST: "50", "spark.executor.cores": "4", "spark.task.cpus": "4"}, 50),
        ({**DYNAMIC, MOST: "50", "spark.executor.cores": "4", GPU: "2", TASK_GPU: "1"}, 100),
        ({**DYNAMIC, MOST: "1"}, 2),  # more are there
    ],
)
def test_a_run_is_planned_for_the_executors_that_dynamic_allocation_may_bring(conf, n_slots):
    assert planned_slots(conf, 2) == n_slots
