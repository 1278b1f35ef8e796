"""Where a task's model goes: the device that Spark gave it, and one worker's model to each GPU."""

import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from spark_embed.inference import seats
from spark_embed.inference import task as where
from spark_embed.inference.task import executor_name, explain_unused_gpu, placed
from spark_embed.models import Recipe

from support.task_context import Task


@pytest.mark.parametrize(
    ("device", "task", "visible", "expected"),
    [
        ("auto", Task(gpu=["3", "1"]), None, "auto:3"),
        ("gpu", Task(gpu=["3"]), None, "gpu:3"),
        ("gpu", Task(gpu=["3"]), "", "gpu:3"),
        ("auto", Task(gpu=["3"]), "3", "auto:0"),  # the only one that is seen, and its number is 0
        ("auto", Task(gpu=["3"]), "5", "auto:0"),
        ("auto", Task(gpu=["3"]), "2, 3", "auto:1"),  # by nvidia-smi's number
        ("auto", Task(gpu=["1"]), "4,5", "auto:1"),  # by its place among those that are seen
        ("auto", Task(gpu=["GPU-8932f937"]), "GPU-1fa3,GPU-8932f937", "auto:1"),
        ("cpu", Task(gpu=["3"]), None, "cpu"),
        ("cuda:1", Task(gpu=["3"]), None, "cuda:1"),
        ("auto", Task(), None, "auto"),
        ("auto", Task(gpu=[]), None, "auto"),
        ("auto", Task(fpga=["3"]), None, "auto"),
        ("auto", None, None, "auto"),
    ],
)
def test_the_device_is_the_one_that_spark_gave_the_task(device, task, visible, expected, monkeypatch):
    monkeypatch.setattr(where.TaskContext, "get", lambda: task)
    monkeypatch.setattr(seats, "_home", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with placed(Recipe(device=device)) as recipe:
        assert recipe.device == expected


def test_a_gpu_that_torch_does_not_find_is_told(monkeypatch):
    monkeypatch.setattr(where.TaskContext, "get", lambda: Task(gpu=["3"]))
    assert f"a task GPU 3 of host {where.socket.gethostname()}, but torch 2" in explain_unused_gpu("cpu")
    assert explain_unused_gpu("cuda") is None
    monkeypatch.setattr(where.TaskContext, "get", lambda: Task())
    assert explain_unused_gpu("cpu") is None


def test_workers_of_one_executor_give_the_same_name():
    """A worker's parent is the daemon, and the daemon's the executor: this process stands for the latter."""
    daemon = (
        "import subprocess, sys\n"
        "code = 'from spark_embed.inference.task import executor_name; print(executor_name())'\n"
        "for _ in range(2): subprocess.run([sys.executable, '-c', code], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", daemon], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert names == [f"{where.socket.gethostname()}:{os.getpid()}"] * 2
    assert executor_name() not in names


WORKER = """
import sys
from spark_embed.inference.seats import take_gpu
for line in sys.stdin:
    address, visible = line.rstrip("\\n").split(" ")
    with take_gpu(sys.argv[1], address, visible.split(",") if visible else ()) as number:
        print(number, flush=True)
        sys.stdin.readline()
    print("free", flush=True)
"""


@dataclass
class Worker:
    """A worker process of an executor, which runs one task after the other."""

    process: subprocess.Popen

    def begin(self, address, visible=""):
        """Begin a task to which Spark gave this address; returns the number of the GPU that it took."""
        return self._tell(f"{address} {visible}")

    def end(self):
        """End the task."""
        assert self._tell("") == "free"

    def die(self):
        """End it as Spark does when a task is killed: at once."""
        self.process.kill()
        self.process.wait()

    def _tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def start_worker(tmp_path):
    """Start a worker of the executor whose folder is named."""
    started = []

    def start(executor="executor"):
        command = [sys.executable, "-c", WORKER, str(tmp_path / executor)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(Worker(subprocess.Popen(command, **pipes)))
        return started[-1]

    yield start
    for worker in started:
        worker.die()
        worker.process.stdin.close()
        worker.process.stdout.close()


def test_a_worker_stays_on_its_gpu_whatever_address_comes(start_worker):
    a, b = start_worker(), start_worker()
    assert (a.begin("0"), b.begin("1")) == ("0", "1")
    for addresses in (("1", "0"), ("0", "1"), ("1", "0")):
        a.end()
        b.end()
        assert (a.begin(addresses[0]), b.begin(addresses[1])) == ("0", "1")


def test_two_running_tasks_never_share_a_gpu(start_worker):
    """Whichever worker dies and whichever comes first, as long as Spark gives different addresses."""
    a, b, c = start_worker(), start_worker(), start_worker()
    assert [worker.begin(address) for worker, address in ((a, "4"), (b, "5"), (c, "6"))] == ["4", "5", "6"]
    b.die()
    a.end()
    new, another = start_worker(), start_worker()
    assert new.begin("4") == "5"  # the home of none that lives
    assert another.begin("5") == "4"  # all that is free: a worker of another session may be at home there
    c.end()
    assert a.begin("6") == "6"  # and so it has to move, as long as that lasts
    another.end()
    new.end()
    assert c.begin("5") == "4"
    assert new.begin("4") == "5"


def test_a_new_worker_takes_what_is_free_where_its_own_address_is_taken(start_worker):
    a, b = start_worker(), start_worker()
    a.begin("0")
    b.begin("1")
    a.end()
    b.end()
    assert a.begin("1") == "0"
    b.die()
    assert start_worker().begin("0") == "1"


def test_workers_between_two_tasks_keep_their_gpus_from_new_ones(start_worker):
    """Else two models would be on one GPU and none on the other, as long as no two tasks meet."""
    a, b, c = start_worker(), start_worker(), start_worker()
    a.begin("1")
    a.end()
    a.begin("0")
    a.end()
    assert b.begin("1") == "0"
    b.end()
    assert c.begin("0") == "0"  # no GPU is left without a model
    assert a.begin("1") == "1"


def test_tasks_to_which_spark_gave_one_gpu_share_it(start_worker):
    """spark.task.resource.gpu.amount 0.5: moving some to another GPU would put three on that."""
    a, b, c, d = (start_worker() for _ in range(4))
    assert (a.begin("0"), b.begin("1")) == ("0", "1")
    b.end()
    assert c.begin("0") == "0"
    assert (b.begin("1"), d.begin("1")) == ("1", "1")


def test_executors_of_one_machine_do_not_mix(start_worker):
    assert [start_worker(executor).begin("0") for executor in ("a", "b")] == ["0", "0"]


@pytest.mark.parametrize(
    ("visible", "addresses"),
    [("1,2", "12"), ("1,2", "01"), ("0,1", "01"), ("4,5", "01"), ("5,4", "45")],
)
def test_all_visible_gpus_are_used_however_they_are_numbered(start_worker, visible, addresses):
    numbers = [start_worker().begin(address, visible) for address in addresses]
    assert sorted(numbers) == ["0", "1"]


def test_workers_that_see_one_gpu_each_take_that(start_worker):
    """Databricks sets CUDA_VISIBLE_DEVICES for each worker."""
    assert [start_worker().begin(address, address) for address in "012"] == ["0"] * 3


def test_without_a_folder_it_is_sparks_address(tmp_path, monkeypatch):
    monkeypatch.setattr(seats, "_home", None)
    (tmp_path / "file").touch()
    for folder in (None, str(tmp_path / "file/x")):
        with seats.take_gpu(folder, "1") as first, seats.take_gpu(folder, "2") as second:
            assert (first, second) == ("1", "2")


def test_a_child_process_does_not_keep_its_parents_gpu(tmp_path, monkeypatch):
    """Suspicious images are decoded in children; one may be slow to end."""
    monkeypatch.setattr(seats, "_home", None)
    with seats.take_gpu(str(tmp_path), "0"):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with open(tmp_path / "tasks/0") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("wanted", "n_gpus", "expected"),
    [
        ("auto:1", 2, "cuda:1"),
        ("gpu:1", 2, "cuda:1"),
        ("auto:1", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("gpu:MIG-7", 1, "cuda"),
    ],
)
def test_a_place_becomes_a_device_of_this_machine(wanted, n_gpus, expected, monkeypatch):
    from spark_embed.models.device import resolve_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch, "empty", lambda *_, device: device)
    assert resolve_device(wanted) == expected
