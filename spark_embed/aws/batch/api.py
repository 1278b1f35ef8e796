"""AWS Batch's API and those around it: what they refuse, and what Batch says of a job, with what to do."""

from __future__ import annotations

from spark_embed.aws.calls import Caller, Cures

# Of refused calls, and of what Batch says of a job: its statusReason, its container's reason (guides of
# Batch, "Jobs stuck in a RUNNABLE status"; of ECS, "Stopped tasks error messages").
_CURES: Cures = (
    (
        r"OutOfMemory|exit code 137",
        "the container took more than its memory: give it more (--memory, as far as the instances have it), "
        "or do less at once (--num_workers, --batch_size)",
    ),
    (
        r"Host EC2",
        "its instances were taken away as often as it may be tried again: the same command goes on; "
        "--parameter Spot=false in 'setup' takes on demand ones",
    ),
    (
        r"CannotPullContainer",
        "push the image ('setup' prints its name); if it is there, the subnets have no way to ECR and S3: a "
        "NAT gateway, or endpoints",
    ),
    (
        r"CannotStartContainer|CannotCreateContainer",
        "an image for GPUs needs instances with GPUs, and the entry point of the image must be spark-embed",
    ),
    (
        r"exceeded timeout",
        "an attempt may take TimeoutSeconds ('setup'): the same command goes on",
    ),
    (
        r"COMPUTE_ENVIRONMENT_MAX_RESOURCE",
        "the job asks for more vCPUs than MaxVcpus allows: raise it in 'setup', or give --vcpus",
    ),
    (
        r"JOB_RESOURCE_REQUIREMENT",
        "no instance type of the stack has so many vCPUs, so much memory (90 % of an instance's) or GPUs: "
        "give --vcpus, --memory, --gpus, or InstanceTypes in 'setup'",
    ),
    (
        r"INSUFFICIENT_INSTANCE_CAPACITY|[Ii]nsufficient.{0,20}[Cc]apacity",
        "EC2 has none of these instances now: add InstanceTypes, or Subnets in other zones, in 'setup'",
    ),
    (
        r"VcpuLimitExceeded|vCPU limit|[Qq]uota",
        "ask for more vCPUs in Service Quotas (EC2: 'G and VT' for GPUs; on demand and spot are two quotas)",
    ),
    (
        r"[Jj]ob ?[Qq]ueue|[Jj]ob ?[Dd]efinition|[Ss]tack .*does not exist",
        "'spark-embed batch setup' makes the stack; --stack and --region name another one",
    ),
    (r"[Ll]og stream|[Ll]og group", "its container has not begun, or the log is older than LogDays"),
    (r"[Oo]verrides length|8192", "so many flags do not fit: put them into a file in S3, and give --config"),
    (r"must have values", "give each as --parameter NAME=VALUE; the template says what they are"),
    (
        r"(?:ROLLBACK_COMPLETE|ROLLBACK_FAILED|CREATE_FAILED) state",
        "the stack never came to be: 'aws cloudformation delete-stack --stack-name NAME', then set up again",
    ),
)

_BATCH = Caller(
    cures=_CURES,
    policy="the stack's SubmitterPolicy ('spark-embed batch setup' prints it, and is an administrator's)",
    region="--region",
    look="aws batch list-jobs --job-queue STACK --filters name=AFTER_CREATED_AT,values=0",
)

call = _BATCH.call
explain = _BATCH.explain
