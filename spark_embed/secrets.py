"""Environment variables out of AWS Secrets Manager, by the secrets' names; knows not what they are for.

Only names travel: in options, plans and pickled recipes. Driver and workers ask for the values themselves, as
who they are there, once in a process; a value goes into that process's environment and nowhere else. No error
here is raised from another one, whose text or traceback might show a value or a key.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from typing import Any

from spark_embed.errors import ConfigError, one_line

_TIMEOUT_S = 10
_DENIED = ("AccessDeniedException", "AccessDenied")
_REFUSED_KEYS = {
    *("UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignature"),
    *("ExpiredTokenException", "InvalidClientTokenId", "MissingAuthenticationToken"),
}

_filled: set[tuple[int, str]] = set()  # by process: a worker is a fork, with an environment of its own


def fill_environment(secrets: Iterable[str]) -> None:
    """Set variables of this process; runs on the driver, and in each worker before its model is loaded.

    Args:
        secrets: VARIABLE=secret each, by name or ARN; VARIABLE=secret:key for one value of a JSON object.

    Raises:
        ConfigError: a secret is not given out, or has no such value.
    """
    for text in secrets:
        if (os.getpid(), text) not in _filled:
            variable, secret, key = _split(text)
            try:
                os.environ[variable] = _take_value(_ask(secret), key)
            except ConfigError as exc:
                raise ConfigError(f"--secrets {text}: {exc}") from None
            _filled.add((os.getpid(), text))


def _split(text: str) -> tuple[str, str, str]:
    """Return variable, secret and key, which may be empty; an ARN has colons, too, a name has none."""
    variable, _, place = text.partition("=")
    parts = place.split(":")
    n_parts = 7 if parts[0] == "arn" else 1
    return variable, ":".join(parts[:n_parts]), ":".join(parts[n_parts:])


def _take_value(text: str | None, key: str) -> str:
    """Return what a variable is set to, of a secret's text.

    Raises:
        ConfigError: it has no such value.
    """
    if text is None:
        raise ConfigError("the secret is binary; store it as text")
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if isinstance(values, dict):
        if not key:
            raise ConfigError("the secret is a JSON object; add :KEY, the one of its keys that is meant")
        text = values.get(key)
        if not isinstance(text, str):
            raise ConfigError(f"the secret has no text under the key {key}")
    elif key:
        raise ConfigError(f"the secret is no JSON object; leave out :{key}")
    text = text.strip()  # a file's last line break, which no header may hold
    if not text or "\0" in text:
        raise ConfigError("the secret is empty, or holds a null character")
    return text


def _ask(secret: str) -> str | None:
    """Return the text of a secret, None for one that is binary; asks Secrets Manager.

    Raises:
        ConfigError: it is not given out; says why, and what to do.
    """
    # Imported where it is needed: a run without secrets does not pay for it.
    from botocore import exceptions
    from botocore.config import Config
    from botocore.session import Session

    here = socket.gethostname()
    region = None
    try:
        session = Session()
        if not (region := _find_region(session, secret)):
            raise ConfigError(f"{here} does not know in which region; give --aws_region, or set AWS_REGION")
        retries = {"mode": "standard", "max_attempts": 5}
        config = Config(connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries=retries)
        client = session.create_client("secretsmanager", region_name=region, config=config)
        text: str | None = client.get_secret_value(SecretId=secret).get("SecretString")
    except exceptions.ClientError as exc:
        raise ConfigError(_explain(exc.response.get("Error", {}), secret, region, here)) from None
    except exceptions.NoCredentialsError:
        raise ConfigError(f"there are no AWS credentials on {here}; give its machine a role") from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as exc:
        raise ConfigError(
            f"{here} does not reach Secrets Manager in {region} ({type(exc).__name__}); in a private subnet "
            f"that takes a VPC endpoint, com.amazonaws.{region}.secretsmanager"
        ) from None
    except (exceptions.BotoCoreError, ValueError) as exc:
        raise ConfigError(f"AWS's settings on {here} cannot be used ({type(exc).__name__})") from None
    return text


def _find_region(session: Any, secret: str) -> str | None:
    """Return where a secret is: by its ARN, the environment, the profile, or where this machine is."""
    from botocore.utils import IMDSRegionProvider

    if secret.startswith("arn:"):
        return secret.split(":")[3]
    named = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    found: str | None = named or IMDSRegionProvider(session).provide()
    return found


def _explain(error: dict[str, Any], secret: str, region: str | None, here: str) -> str:
    """Return what to say of an error that Secrets Manager answered."""
    code, told = str(error.get("Code", "")), str(error.get("Message", ""))
    if code == "ResourceNotFoundException":
        return f"there is no secret {secret} in {region}; check its name, or give its ARN, which says where"
    if code in _DENIED and "kms" not in told.lower():
        arn = secret if secret.startswith("arn:") else f"arn:aws:secretsmanager:{region}:*:secret:{secret}-*"
        return f"access is denied to {here}: its role needs secretsmanager:GetSecretValue on {arn}"
    if code in (*_DENIED, "DecryptionFailure"):
        return f"{here} may not decrypt it: its role needs kms:Decrypt on the key that the secret is under"
    if code in _REFUSED_KEYS:
        return f"AWS does not accept the credentials of {here} ({code}); renew them"
    return f"Secrets Manager answers {code}: {one_line(told, 200)}"
