"""What is asked of EMR: requests that its service model takes, errors of the file and of flags, refusals."""

import json

import pytest
import yaml

from spark_embed.aws.emr.api import call, emr_client, explain
from spark_embed.aws.emr.cluster_file import read_cluster
from spark_embed.aws.emr.price import worker_price
from spark_embed.aws.emr.requests import job_step, run_job_flow, spark_settings
from spark_embed.errors import CloudError, ConfigError
from spark_embed.load_config import conf_folder, read_properties
from spark_embed.prices import Prices

from support.checkout import REPOSITORY
from support.commands import BIN, run_command

ONE = {"types": ["a"], "on_demand": 1}
JOB = ["--input_dir", "s3://b/in", "--output_dir", "s3://b/out"]


@pytest.mark.parametrize("shipped", ["cluster.yaml", "cluster-cpu.yaml"])
@pytest.mark.parametrize("release", ["emr-spark-8.1.0", "emr-7.14.0"])
def test_emr_takes_what_the_shipped_files_ask_for(write_cluster, shipped, release):
    from support.aws_server import check_request

    changes = {"release": release, "security_configuration": "tls", "idle_timeout_s": 600}
    cluster = read_cluster(write_cluster(shipped, **changes))
    step = job_step(cluster, "1-a", JOB, name="n" * 300, is_alone=True)
    alone, kept = run_job_flow(cluster, "1-a", [step]), run_job_flow(cluster, "1-a")
    for request in (alone, kept):
        check_request("emr", "RunJobFlow", request)
        assert request["AutoTerminationPolicy"] == {"IdleTimeout": 600}
        assert request["Applications"] == [{"Name": "Spark"}]
        assert request["SecurityConfiguration"] == "tls"
        (action,) = (item["ScriptBootstrapAction"] for item in request["BootstrapActions"])
        release_folder = "s3://bucket/spark_embed/releases/1-a"
        gpu = ["--gpu"] if shipped == "cluster.yaml" else []
        assert action == {"Path": f"{release_folder}/bootstrap.sh", "Args": [release_folder, *gpu]}
    ends = [request["Instances"]["KeepJobFlowAliveWhenNoSteps"] for request in (alone, kept)]
    assert ends == [False, True]
    primary, core, task = alone["Instances"]["InstanceFleets"]
    assert [fleet["TargetSpotCapacity"] for fleet in (primary, core)] == [0, 0]
    assert task["LaunchSpecifications"]["SpotSpecification"] == {
        "AllocationStrategy": "price-capacity-optimized",
        "TimeoutDurationMinutes": 20,
        "TimeoutAction": "SWITCH_TO_ON_DEMAND",
    }


@pytest.mark.parametrize("mode", ["client", "cluster"])
def test_a_step_is_the_command_line_with_the_settings_of_the_file(write_cluster, mode):
    cluster = read_cluster(write_cluster(spark={"spark.executor.cores": 3, "spark.speculation": True}))
    step = job_step(cluster, "1-a", JOB, name="n", deploy_mode=mode, is_alone=False)
    args = step["HadoopJarStep"]["Args"]
    assert (step["HadoopJarStep"]["Jar"], step["ActionOnFailure"]) == ("command-runner.jar", "CONTINUE")
    assert args[:3] == ["spark-submit", "--deploy-mode", mode]
    home = "s3://bucket/spark_embed/releases/1-a"
    files = ["--files", f"{home}/conf/gpus.sh", "--py-files", f"{home}/spark_embed.zip"]
    assert args[-9:] == [*files, f"{home}/jobs/embed.py", *JOB]
    given = [args[i + 1].partition("=")[::2] for i, word in enumerate(args) if word == "--conf"]
    settings = dict(given)
    assert len(settings) == len(given)
    expected = read_properties(str(conf_folder() / "gpu.conf")) | {
        "spark.executor.cores": "3",
        "spark.speculation": "true",
        "spark.executor.instances": "5",  # one on demand, four on spot
        "spark.pyspark.python": "/opt/spark_embed/bin/python",
        "spark.executorEnv.XDG_CACHE_HOME": "/mnt/spark_embed/cache",
        "spark.yarn.appMasterEnv.XDG_CACHE_HOME": "/mnt/spark_embed/cache",
    }
    assert expected == spark_settings(cluster)
    # A driver that YARN started anew would begin the hours and the money of a limit anew.
    alone = {"spark.yarn.maxAppAttempts": "1", "spark.driver.memoryOverhead": "2g"}
    assert settings == expected | (alone if mode == "cluster" else {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"idle_timeout": 5}, "unknown key idle_timeout; did you mean idle_timeout_s?"),
        ({"idle_timeout_s": 5}, "idle_timeout_s 5: must be greater than or equal to 60"),
        ({"release": "emr-8"}, "release 'emr-8': must match pattern"),
        ({"home": "/here"}, "home '/here': must be a folder in S3: s3://bucket/folder"),
        ({"home": "s3://BUCKET/a"}, "put your own in place of the placeholders of home (BUCKET)"),
        ({"subnets": []}, "subnets []: "),
        ({"conf": "gpus.conf"}, "conf must be one of conf/: cpu.conf, gpu.conf"),
        ({"fleets": {"primary": ONE | {"on_demand": 2}, "core": ONE}}, "fleets: primary must be one"),
        ({"fleets": {"primary": ONE, "core": {"types": ["a"]}}}, "fleets: core must be one instance"),
        ({"fleets": {"primary": {"types": [], "ondemand": 1}}}, "primary.ondemand; did you mean on_demand?"),
        ({"fleets": {"primary": ONE}}, "fleets.core is missing"),
        ({"configurations": [{"Classifications": "a"}]}, "did you mean Classification?"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_one_line(write_cluster, changes, words):
    path = write_cluster(**changes)
    with pytest.raises(ConfigError) as found:
        read_cluster(str(path))
    assert words in str(found.value)
    assert str(found.value).startswith(f"--cluster {path}: ")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ([], "behind --"),
        (["--input_dir", "s3://b/in"], "--output_dir is required"),
        ([*JOB, "--batchsize", "3"], "did you mean --batch_size?"),
        (["--input_dir", "/data", *JOB[2:]], "--input_dir /data: is not in S3"),
        ([*JOB[:2], "--output_dir", "out"], "--output_dir out: is not in S3"),
        ([*JOB, "--model_directory", "./clip"], "emr deploy --model_directory FOLDER"),
        ([*JOB, "--model_directory", "openai/clip,~/vit"], "--model_directory ~/vit: is not in S3"),
        ([*JOB, "--config=run.yaml"], "--config run.yaml: is not in S3"),
    ],
)
def test_flags_that_cannot_be_are_told_before_anything_is_sent(write_cluster, command, job, words):
    code, out, err = command("submit", "--cluster", write_cluster(), "--", *job)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]


def test_a_hub_id_is_no_path(write_cluster, command):
    job = [*JOB, "--model_directory", "openai/clip-vit-base-patch32"]
    dry = ["submit", "--cluster", write_cluster(), "--dry_run", "--release_version", "1-a"]
    assert command(*dry, "--", *job)[0] == 0


def test_a_worker_costs_its_share_of_the_cluster(write_cluster):
    """One primary, one core on demand, three tasks on spot; the first type of a fleet stands for it."""
    fleets = {
        "primary": {"types": ["m"], "on_demand": 1},
        "core": {"types": ["g", "h"], "on_demand": 1},
        "task": {"types": ["g"], "spot": 3},
    }
    cluster = read_cluster(write_cluster(fleets=fleets))
    instances = {"m": {"ec2": 0.4, "emr": 0.1}, "g": {"ec2": 1.0, "emr": 0.25, "spot": 0.5}}
    told = {"date": "2026-01-01", "region": "us-east-1", "path": "p.yaml"}
    prices = Prices(**told, instances=instances)
    assert worker_price(cluster, prices) == pytest.approx((0.4 + 0.1 + 1.0 + 0.25 + 3 * (0.5 + 0.25)) / 4)
    instances["g"].pop("emr")
    with pytest.raises(ConfigError, match=r"p.yaml .* has no emr price of g: add g: \{emr: USD\} there"):
        worker_price(cluster, Prices(**told, instances=instances))
    with pytest.raises(ConfigError, match="has prices of eu-west-9, and the cluster is in us-east-1"):
        worker_price(cluster, prices.model_copy(update={"region": "eu-west-9"}))


@pytest.mark.parametrize(
    "text", ["region: a\nhome: b\nregion: c\n", "a: " + "[" * 3000, "[" * 3000], ids=["twice", "deep", "list"]
)
def test_a_file_that_would_be_misread_is_refused(tmp_path, text):
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"region is there twice|not YAML"):
        read_cluster(tmp_path / "cluster.yaml")


def test_a_cluster_is_started_once_and_what_only_looks_asks_again(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    once = emr_client("us-east-1", is_repeatable=False).meta.config.retries
    assert once["total_max_attempts"] == 1
    assert emr_client("us-east-1").meta.config.retries["total_max_attempts"] > 1


@pytest.mark.parametrize("given", [[], ["--hourly_price", "9"]])
def test_the_job_is_told_the_price_of_a_worker_unless_somebody_has(
    write_cluster, command, monkeypatch, given
):
    monkeypatch.setattr("spark_embed.aws.emr.price.worker_price", lambda *_: 1.25)
    dry = ["submit", "--cluster", write_cluster(), "--dry_run", "--release_version", "1-a", "--"]
    code, out, _ = command(*dry, *JOB, "--max_cost", "5", *given)
    assert code == 0
    args = json.loads(out)["parameters"]["Steps"][0]["HadoopJarStep"]["Args"]
    assert args.count("--hourly_price") == 1
    assert args[args.index("--hourly_price") + 1] == ("9" if given else "1.2500")


@pytest.mark.slow
def test_a_dry_run_needs_nobody_and_says_what_would_be_sent(write_cluster, tmp_path, emr_server):
    """As a process without credentials, where AWS would be an address that nobody answers."""
    from support.aws_server import check_request

    before = len(emr_server.requests)
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "PYTHONPATH": str(REPOSITORY)}
    submit = [BIN / "spark-embed", "emr", "submit", "--cluster", write_cluster(), "--dry_run"]
    told = []
    for more in ([], ["--cluster_id", "j-1"]):
        done = run_command(*submit, *more, "--", *JOB, environ=nowhere, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
        check_request("emr", told[-1]["operation"], told[-1]["parameters"])
    assert [call["operation"] for call in told] == ["RunJobFlow", "AddJobFlowSteps"]
    actions = [call["parameters"]["Steps"][0]["ActionOnFailure"] for call in told]
    assert actions == ["TERMINATE_CLUSTER", "CONTINUE"]
    assert len(emr_server.requests) == before


def test_a_dry_run_of_what_changes_something_says_it_and_asks_nobody(
    write_cluster, command, emr, tmp_path, monkeypatch
):
    from support.aws_server import check_request

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    here = ("--cluster", write_cluster(), "--dry_run")
    for argv in (["cancel", "--cluster_id", "j-1", "--step_id", "s-1"], ["terminate", "--cluster_id", "j-1"]):
        code, out, err = command(*argv, *here)
        assert code == 0, err
        check_request("emr", *json.loads(out).values())
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/config.json").write_text("{}")
    code, out, err = command("deploy", *here, "--model_directory", tmp_path / "clip")
    assert code == 0, err
    told = json.loads(out)
    assert told["release"].endswith(f"/releases/{told['release_version']}")
    assert told["model_directory"].startswith("s3://bucket/spark_embed/models/clip-")
    assert emr.requests == []


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::1:user/me is not authorized to perform: iam:PassRole on resource: "
            "arn:aws:iam::1:role/EMR_DefaultRole because no identity-based policy allows the action",
            "you may not iam:PassRole on arn:aws:iam::1:role/EMR_DefaultRole; emr/policies/submitter.json",
        ),
        ("AccessDeniedException", "no", "AccessDeniedException: no; emr/policies/submitter.json allows"),
        ("ExpiredTokenException", "The security token included is expired", "; AWS does not accept"),
        ("ThrottlingException", "Rate exceeded", "asked too often"),
        ("ValidationException", "The supplied ecSubnetId is not valid.", "not valid; check subnets in the"),
        (
            "VALIDATION_ERROR",
            "The VPC/subnet configuration was invalid: The subnet subnet-1 does not exist.",
            "does not exist; check subnets",
        ),
        (
            "VALIDATION_ERROR",
            "You have requested more vCPU capacity than your current vCPU limit of 32 allows for the "
            "instance bucket that the specified instance type belongs to.",
            "; your quota of vCPUs is too small",
        ),
        ("INSTANCE_FLEET_TIMEOUT", "Timed out", "EC2 has not as many of these instances now"),
        ("ValidationException", "The supplied release label is invalid: emr-9.9.9.", "; check release in"),
        ("ValidationException", "Invalid InstanceProfile: a.", "; check instance_profile"),
        ("ValidationException", "Cluster id 'j-1' is not valid.", "; check --cluster_id, and region"),
        (
            "ValidationException",
            "A job flow that is shutting down, terminated, or finished may not be modified.",
            "leave out --cluster_id",
        ),
        ("Unknown", "Something\nelse", "Unknown: Something else"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_with_a_cure(code, message, words):
    assert words in explain(code, message)
    assert "\n" not in explain(code, message)


def test_a_refused_call_has_its_exit_code(emr, cluster_file, command):
    emr.refusals["DescribeCluster"] = (
        "AccessDeniedException",
        "not authorized to perform: a:B on resource: c",
    )
    code, _, err = command("status", "--cluster", cluster_file, "--cluster_id", "j-1")
    assert code == 11
    assert "DescribeCluster: you may not a:B on c; emr/policies/submitter.json allows" in err


def test_who_has_no_credentials_is_told(emr, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(CloudError, match="ListClusters: no AWS credentials; set AWS_PROFILE"):
        call(emr_client("eu-west-1"), "ListClusters")


def test_the_shipped_file_as_it_is_names_what_to_fill_in():
    with pytest.raises(ConfigError, match=r"of home \(BUCKET\), log_uri \(BUCKET\), subnets \(subnet-ID\)"):
        read_cluster(str(REPOSITORY / "emr/cluster.yaml"))
    assert yaml.safe_load((REPOSITORY / "emr/cluster.yaml").read_text())["idle_timeout_s"]
