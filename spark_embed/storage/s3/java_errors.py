"""What the stack trace of a failed Spark job says of the store: read out of its exceptions; runs nothing.

On an executor S3A, the AWS SDK under it and the HTTP client under that each have a tree of exceptions, which
grow with each release, and the JDK adds its own. So a failure is judged by who threw it: the package of its
class, or that of the first frame which is neither the JDK's nor an HTTP library's. What is listed by name is
what is not the store's, or does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from spark_embed.errors import one_line
from spark_embed.storage.s3.errors import (
    NO_REASON,
    REFUSED_KEYS,
    STORE_FAILURES,
    S3CredentialsError,
    said_of_keys,
)

# S3A, the SDKs (v1, v2), EMR's own file system; platforms may put a prefix before them.
_STORE = re.compile(
    r"(?:^|\.)(?:org\.apache\.hadoop\.fs\.s3a|com\.amazonaws|software\.amazon|com\.amazon\.ws\.emr\.hadoop\.fs)\."
)
# What they all stand on: it says nothing of who has called it.
_BELOW_ALL = re.compile(
    r"^(?:java|javax|jdk|sun|com\.sun)\.|(?:^|\.)(?:org\.apache\.(?:http|hc|commons)|io\.netty)\."
)
# Nobody but a network client throws these, whoever the frames are of.
_NETWORK = re.compile(r"(?:^|\.)(?:org\.apache\.(?:http|hc)|javax\.net\.ssl)\.")
# About one object, which is not there, not ours to read, or another one by now.
_OF_A_FILE = {
    *("FileNotFoundException", "NoSuchKeyException", "NoSuchFileException", "AccessDeniedException"),
    *("RemoteFileChangedException", "NoVersionAttributeException", "RangeNotSatisfiableEOFException"),
}
# EOFExceptions of org.apache.hadoop.fs.FSExceptionMessages: a reader wants more than the object has.
_BEHIND_ITS_END = re.compile(r"seek or read past the end|reached before reading fully|seek to a negative")
# As long as nobody puts that right, another attempt ends in the same way.
_LASTING = {
    *("AWSBadRequestException", "AWSRedirectException", "AWSUnsupportedFeatureException"),
    *("UnknownStoreException", "InstantiationIOException", "NoSuchBucketException"),
    *("CredentialInitializationException", "NoAuthWithAWSException", "NoAwsCredentialsException"),
    *(
        "AccessDeniedException",
        "AuditFailureException",
        "AuditOperationRejectedException",
        "DelegationTokenIOException",
    ),
}
_KEYS_REFUSED = re.compile(rf"\b({'|'.join(sorted(REFUSED_KEYS))})\b")
# A HEAD of the SDK's that AWS answers so if the keys have expired: no code, at most the status in words.
_REFUSED_HEAD = re.compile(r"(?:^|: )(?:null|Bad Request)? ?\(Service: S3, Status Code: 400\b")

# Indented are those that were suppressed; behind "Lost task" stands what an executor threw.
_EXCEPTION = re.compile(
    r"^(?:.*Lost task .*?\): |Caused by: |: )?((?:[A-Za-z_]\w*\.)+[A-Z][\w$]*)(?:: (.*))?$"
)
_FRAME = re.compile(r"^\s+at (?:[^\s(]*/)?([\w.$]+)\.")
_SUPPRESSED = re.compile(r"^\s+Suppressed: ")
_OURS = re.compile(rf"\b({'|'.join(f'{kind.__module__}.{kind.__name__}' for kind in STORE_FAILURES)}): ")


class StoreFailure(NamedTuple):
    """That the store failed, in its own words.

    Attributes:
        is_passing: another attempt may not meet it.
        is_of_a_file: it is about one object, which is not there, denied, or another one by now.
    """

    line: str
    is_passing: bool
    is_of_a_file: bool = False


@dataclass
class _Thrown:
    """One exception of a chain."""

    name: str
    text: str
    frames: list[str] = field(default_factory=list)

    @property
    def short_name(self) -> str:
        return re.split(r"[.$]", self.name)[-1]

    @property
    def is_of_a_file(self) -> bool:
        return self.short_name in _OF_A_FILE or _BEHIND_ITS_END.search(self.text) is not None

    @property
    def is_of_the_store(self) -> bool:
        if _STORE.search(self.name) or _NETWORK.search(self.name):
            return True
        thrower = next((frame for frame in self.frames if not _BELOW_ALL.search(frame)), "")
        return _STORE.search(thrower) is not None


def store_failure(text: str) -> StoreFailure | None:
    """Return what made a Spark job fail if it was the store; None if it was not.

    Args:
        text: of the failure: a stack trace of Java, and in it maybe the traceback of a Python worker.
    """
    for line in text.splitlines():
        if found := _OURS.search(line):
            is_ours_to_mend = found[1].endswith(S3CredentialsError.__name__)
            return StoreFailure(one_line(line[found.end() :]), is_passing=not is_ours_to_mend)
    chain = list(_chain(text))
    ours = [one for one in chain if one.is_of_the_store]
    if not ours:
        return None
    if refused := _KEYS_REFUSED.search(" ".join(one.text for one in chain)):  # before a file that is denied
        return StoreFailure(said_of_keys(refused[1]), is_passing=False)
    if any(_REFUSED_HEAD.search(one.text) for one in ours):
        return StoreFailure(NO_REASON, is_passing=False)
    told = one_line(f"{ours[-1].short_name}: {ours[-1].text}")
    is_of_a_file = any(one.is_of_a_file for one in chain)
    is_lasting = any(one.short_name in _LASTING for one in chain)
    return StoreFailure(told, is_passing=not is_lasting, is_of_a_file=is_of_a_file)


def root_cause(text: str) -> str | None:
    """Return the exception at the end of a chain, in one line without its package; None if there is none."""
    chain = list(_chain(text))
    return one_line(f"{chain[-1].short_name}: {chain[-1].text}") if chain else None


def _chain(text: str) -> Iterator[_Thrown]:
    """Yield the exceptions of a stack trace, the outermost first, without those that were suppressed."""
    last: _Thrown | None = None
    is_suppressed = False
    for line in text.splitlines():
        if _SUPPRESSED.match(line):
            is_suppressed = True
        elif thrown := _EXCEPTION.match(line):
            if last is not None:
                yield last
            last, is_suppressed = _Thrown(thrown[1], thrown[2] or ""), False
        elif last is not None and not is_suppressed and (frame := _FRAME.match(line)):
            last.frames.append(frame[1])
    if last is not None:
        yield last
