"""AWS's APIs by boto3: one way to call them, and one line with a cure where AWS refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from spark_embed.errors import CloudError, ConfigError, one_line

_DENIED = re.compile(r"not authorized to perform: (?P<action>[\w:]+)(?: on resource: (?P<what>\S+))?")
_DENIALS = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
_MAX_CHARS = 400

Cures = tuple[tuple[str, str], ...]
"""What AWS says, as a pattern -> what to do. The first that is found in "code: message" counts."""

_CURES: Cures = (
    (
        r"expired|UnrecognizedClient|InvalidClientTokenId|SignatureDoesNotMatch|InvalidSignature|AuthFailure",
        "AWS does not accept these credentials; renew them (aws sts get-caller-identity says whose they are)",
    ),
    (
        r"Throttling|TooManyRequests|Rate exceeded|RequestLimitExceeded",
        "AWS is asked too often; try again in a minute",
    ),
)


def make_client(service: str, region: str | None, *, is_repeatable: bool = True) -> Any:
    """Return a client of one of AWS's services; credentials are found as boto3 finds them.

    Args:
        service: its name in boto3.
        region: where; None for that of the environment or the profile.
        is_repeatable: whether a call whose answer did not come may be made again. One that starts something
            may not, where AWS takes no token by which it would know the call again.

    Raises:
        ConfigError: nobody says in which region.
        CloudError: the environment, or the person's AWS files, make none.
    """
    # Imported where it is needed: other commands do not pay for it.
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, NoRegionError

    try:
        # Adaptive: AWS throttles all of an account's clients together, and soon.
        # A session of its own: boto3's shared one keeps the credentials that it began with.
        return boto3.Session().client(
            service,
            region_name=region,
            config=Config(retries={"mode": "adaptive", "total_max_attempts": 11 if is_repeatable else 1}),
        )
    except NoRegionError as exc:
        raise ConfigError("nobody says in which region of AWS: give --region, or set AWS_REGION") from exc
    except (BotoCoreError, ValueError) as exc:
        raise CloudError(f"AWS cannot be asked: {one_line(exc)}") from exc


@dataclass(frozen=True)
class Caller:
    """Calls the APIs of a service, and says of its refusals what holds for that service only.

    Attributes:
        cures: of this service; those that hold for all of AWS come first.
        policy: what allows what the commands ask for.
        region: where the region stands.
        look: the command that shows what a call without an answer has done.
    """

    cures: Cures
    policy: str
    region: str
    look: str

    def call(self, client: Any, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation, by its name in the API (RunJobFlow).

        Raises:
            CloudError: AWS refuses or is not there, in one line with what to do.
        """
        from botocore import exceptions, xform_name

        try:
            answer: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
            return answer
        except exceptions.ClientError as exc:
            error = exc.response.get("Error", {})
            said = self.explain(str(error.get("Code", "")), str(error.get("Message", "")))
            raise CloudError(f"{operation}: {said}") from exc
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as exc:
            raise CloudError(
                f"{operation}: no AWS credentials; set AWS_PROFILE (aws configure sso, aws sso login), or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is"
            ) from exc
        except exceptions.EndpointConnectionError as exc:
            raise CloudError(
                f"{operation}: AWS cannot be reached ({one_line(exc)}); check the network, and {self.region}"
            ) from exc
        except (exceptions.ReadTimeoutError, exceptions.ConnectionClosedError) as exc:
            raise CloudError(
                f"{operation}: no answer came ({one_line(exc)}); AWS may have done it all the same: look "
                f"with '{self.look}' before you try again"
            ) from exc
        except exceptions.BotoCoreError as exc:
            raise CloudError(f"{operation}: {one_line(exc)}") from exc

    def explain(self, code: str, message: str) -> str:
        """Return what AWS says, as one line that ends with what to do where that is known."""
        said = one_line(f"{code}: {message}" if code else message, _MAX_CHARS)
        denied = _DENIED.search(message)
        if denied:
            on = f" on {denied['what'].rstrip('.')}" if denied["what"] else ""
            return f"you may not {denied['action']}{on}; {self.policy} allows what these commands need"
        if code in _DENIALS:
            return f"{said.rstrip('. ')}; {self.policy} allows what these commands need"
        for sign, cure in (*_CURES, *self.cures):
            if re.search(sign, said):
                return f"{said.rstrip('. ')}; {cure}"
        return said
