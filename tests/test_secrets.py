"""--secrets: variables out of Secrets Manager (moto's), where driver and workers run, and nowhere else."""

import json
import os
from collections import Counter
from dataclasses import asdict

import boto3
import moto.secretsmanager.models
import pytest
from moto.core.exceptions import JsonRESTError
from moto.server import ThreadedMotoServer

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.inference.recipes import make_recipe
from spark_embed.models import Recipe
from spark_embed.secrets import fill_environment

from support.checkout import REPOSITORY
from support.commands import run_command
from support.hub import MODEL, Hub
from support.s3_runs import keys_below, read_parquet, upload_tree

REGION = "eu-central-1"
TOKEN = "hf_Zq7-never-to-be-seen"
SECRETS = {"hub": TOKEN, "all/keys": json.dumps({"hub": TOKEN, "n": 1}), "line": f"{TOKEN}\n", "none": " "}
KEYS = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "one"}


@pytest.fixture(scope="module")
def moto_url():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def secrets_manager(moto_url, monkeypatch):
    """Moto's with `SECRETS`, in this process's environment; counts who asks for which."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = {
        "AWS_ENDPOINT_URL": moto_url,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        **KEYS,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setattr("spark_embed.secrets._filled", set())
    for backends in moto.secretsmanager.models.secretsmanager_backends.values():  # of its accounts
        backends.reset()
    client = boto3.client("secretsmanager", region_name=REGION)
    for name, value in SECRETS.items():
        client.create_secret(Name=name, SecretString=value)
    client.create_secret(Name="bytes", SecretBinary=b"\x00")
    client.asked = Counter()
    backend = moto.secretsmanager.models.SecretsManagerBackend
    original = backend.get_secret_value

    def counted(self, secret_id, *others, **named):
        client.asked[secret_id] += 1
        return original(self, secret_id, *others, **named)

    monkeypatch.setattr(backend, "get_secret_value", counted)
    return client


@pytest.mark.parametrize("place", ["hub", "all/keys:hub", "line", "ARN", "ARN:hub"])
def test_a_variable_has_the_value_of_its_secret_asked_for_once(secrets_manager, monkeypatch, place):
    monkeypatch.setenv("HF_TOKEN", "another")
    if place.startswith("ARN"):
        arn = secrets_manager.describe_secret(SecretId="all/keys" if ":" in place else "hub")["ARN"]
        place = place.replace("ARN", arn)
        monkeypatch.setenv("AWS_REGION", "us-west-2")  # the ARN knows better
    for _ in range(2):
        fill_environment([f"HF_TOKEN={place}"])
        assert os.environ["HF_TOKEN"] == TOKEN
    assert secrets_manager.asked.total() == 1


@pytest.mark.parametrize(
    ("place", "environ", "said"),
    [
        ("no/such", {}, f"there is no secret no/such in {REGION}; check its name, or give its ARN"),
        ("hub:key", {}, "the secret is no JSON object; leave out :key"),
        ("all/keys", {}, "the secret is a JSON object; add :KEY"),
        ("all/keys:n", {}, "the secret has no text under the key n"),
        ("bytes", {}, "the secret is binary; store it as text"),
        ("none", {}, "the secret is empty, or holds a null character"),
        ("hub", {"AWS_REGION": ""}, "does not know in which region; give --aws_region, or set AWS_REGION"),
        ("hub", dict.fromkeys(KEYS, ""), "there are no AWS credentials on "),
        ("hub", {"AWS_PROFILE": "nobody"}, "cannot be used (ProfileNotFound)"),
        (
            "hub",
            {"AWS_ENDPOINT_URL": "http://me:hf_Zq7@127.0.0.1:1"},
            "VPC endpoint, com.amazonaws.eu-central-1.",
        ),
    ],
)
def test_what_is_wrong_is_one_line_without_a_value(secrets_manager, monkeypatch, place, environ, said):
    monkeypatch.setattr("spark_embed.secrets._TIMEOUT_S", 0.1)
    for name, value in environ.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=f"^--secrets HF_TOKEN={place}: ") as caught:
        fill_environment([f"HF_TOKEN={place}"])
    assert said in str(caught.value)
    assert "hf_Zq7" not in str(caught.value)
    assert caught.value.__cause__ is None


ARN = f"arn:aws:secretsmanager:{REGION}:*:secret:hub-*"
NOBODY = (
    "User: arn:aws:sts::1:assumed-role/x is not authorized to perform: secretsmanager:GetSecretValue on ..."
)


@pytest.mark.parametrize(
    ("code", "told", "said"),
    [
        ("AccessDeniedException", NOBODY, f": its role needs secretsmanager:GetSecretValue on {ARN}"),
        ("AccessDeniedException", "Access to KMS is not allowed", ": its role needs kms:Decrypt on the key"),
        ("DecryptionFailure", "cannot be decrypted", ": its role needs kms:Decrypt on the key"),
        (
            "UnrecognizedClientException",
            "The security token is invalid",
            "does not accept the credentials of ",
        ),
        ("InvalidRequestException", "it was marked for deletion", "answers InvalidRequestException: it was"),
    ],
)
def test_who_is_not_given_a_secret_is_told_what_to_allow(secrets_manager, monkeypatch, code, told, said):
    """As AWS answers; moto's own check of policies answers in another protocol."""

    def refuse(*_, **named):
        raise JsonRESTError(code, told)

    monkeypatch.setattr(moto.secretsmanager.models.SecretsManagerBackend, "get_secret_value", refuse)
    with pytest.raises(ConfigError) as caught:
        fill_environment(["HF_TOKEN=hub"])
    assert said in str(caught.value)


@pytest.mark.parametrize("value", ["HF_TOKEN", "=x", "1A=x", "A=x y", "A=", "A=x:y z"])
def test_what_names_no_secret_is_refused(value):
    with pytest.raises(ValueError, match="must be VARIABLE=secret-name or VARIABLE=secret-name:key"):
        Config(input_dir="in", output_dir="out", secrets=value)


def test_a_recipe_carries_names(secrets_manager):
    recipe = make_recipe(Config(input_dir="in", output_dir="out", secrets="A=hub, B=all/keys:hub"))
    assert recipe.secrets == ("A=hub", "B=all/keys:hub")
    assert TOKEN not in repr(recipe)
    told = json.loads(json.dumps(asdict(recipe)))
    assert Recipe.from_dict(told) == recipe
    assert not secrets_manager.asked


@pytest.mark.slow
def test_workers_elsewhere_load_a_model_that_takes_a_token_which_nothing_shows(
    secrets_manager, moto_url, s3_server, shards, tiny_clip, tmp_path, monkeypatch
):
    """A hub that gives its model only to who has the token; executors are processes of their own.

    They get the jars for S3, too. The master and the settings of who submits are not overridden.
    """
    secret = secrets_manager.describe_secret(SecretId="all/keys")["ARN"]
    s3_server.set_environment(monkeypatch)  # in another region
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    bucket = s3_server.make_bucket()
    files = {path.name: path.read_bytes() for path in tiny_clip.iterdir()}
    (tmp_path / "events").mkdir()
    with Hub(files, TOKEN) as hub:
        hub.start()
        environ = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub")}
        environ |= {"SPARK_CONF_DIR": tmp_path / "none"}  # Spark's own log, which says its level
        done = run_command(
            "spark-submit", "--master", "local-cluster[1,1,1024]", "--conf", "spark.log.level=ERROR",
            "--conf", f"spark.executor.extraJavaOptions={os.environ['SPARK_SUBMIT_OPTS']}",
            "--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir=file://{tmp_path}/events",
            "--conf", "spark.eventLog.compress=false", "--conf", "spark.ui.enabled=false",
            REPOSITORY / "jobs/embed.py", "--input_dir", upload_tree(s3_server, shards, bucket, "in"),
            "--output_dir", f"s3://{bucket}/out", "--model_directory", MODEL,
            "--secrets", f"HF_TOKEN={secret}:hub", "--parity_samples", 0, "--num_workers", 7,
            environ=environ, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "27 rows: 24 embedded, 3 errors" in done.stdout
    assert "--num_workers 7: this Spark runs" in done.stdout  # a local master would have become local[7,4]
    assert 'Setting Spark log level to "ERROR"' in done.stderr
    assert len(read_parquet(s3_server, bucket, "out/embeddings.parquet")) == 24
    assert secrets_manager.asked[secret] == 2  # the driver, and the one worker
    stored = {
        key: s3_server.direct.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in keys_below(s3_server, bucket)
    }
    assert json.loads(stored["out/metadata.json"])["config"]["secrets"] == [f"HF_TOKEN={secret}:hub"]
    assert TOKEN not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"spark.eventLog.enabled" in path.read_bytes() for path in written)
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert [key for key, body in stored.items() if TOKEN.encode() in body] == []
