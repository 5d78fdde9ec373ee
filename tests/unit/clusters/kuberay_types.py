"""The part of KubeRay's ray.io/v1 and of Kubernetes' pods that our files use, written down as types.

No definitions of the resources are at hand offline. A name that is not here is refused, as the API server refuses or
silently drops it. Add a field only after looking it up in KubeRay's API reference (these are of 1.6). Fields are
written here in Python's way, and in the files as KubeRay has them: `group_name` is `groupName`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


Quantity = Annotated[str, Field(pattern=r"^\d+(m|Mi|Gi)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class SecretKeyRef(Strict):
    name: Name
    key: str


class ValueFrom(Strict):
    secret_key_ref: SecretKeyRef


class EnvVar(Strict):
    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Capabilities(Strict):
    drop: list[str]


class ContainerSecurity(Strict):
    allow_privilege_escalation: bool
    capabilities: Capabilities


class ContainerPort(Strict):
    container_port: int
    name: Name


class VolumeMount(Strict):
    name: Name
    mount_path: str


class Container(Strict):
    name: Name
    image: str
    env: list[EnvVar]
    security_context: ContainerSecurity
    resources: Resources
    volume_mounts: list[VolumeMount]
    ports: list[ContainerPort] = []


class Claim(Strict):
    claim_name: Name


class Volume(Strict):
    name: Name
    persistent_volume_claim: Claim


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    run_as_non_root: bool
    run_as_user: PositiveInt
    run_as_group: PositiveInt
    fs_group: PositiveInt
    seccomp_profile: Seccomp


class Toleration(Strict):
    key: str
    operator: Literal["Equal", "Exists"]
    value: str | None = None
    effect: Literal["NoSchedule"]


class Pod(Strict):
    restart_policy: Literal["Never"]
    node_selector: dict[str, str]
    security_context: PodSecurity
    containers: list[Container]
    volumes: list[Volume]
    tolerations: list[Toleration] = []
    automount_service_account_token: bool = True


class PodMetadata(Strict):
    labels: dict[str, str]


class PodTemplate(Strict):
    metadata: PodMetadata
    spec: Pod


class HeadGroup(Strict):
    service_type: Literal["ClusterIP"]
    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(Strict):
    group_name: Name
    replicas: int
    min_replicas: int
    max_replicas: PositiveInt
    ray_start_params: dict[str, str]
    template: PodTemplate


class AuthOptions(Strict):
    mode: Literal["token"]
    secret_name: Name


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"]
    idle_timeout_seconds: PositiveInt
    env: list[EnvVar]
    resources: Resources


class RayClusterSpec(Strict):
    ray_version: str
    auth_options: AuthOptions
    enable_in_tree_autoscaling: Literal[True]
    autoscaler_options: AutoscalerOptions
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]


class RayJobSpec(Strict):
    entrypoint: str
    submission_mode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"]
    backoff_limit: int
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: int
    runtime_env_yaml: str = Field(alias="runtimeEnvYAML")
    ray_cluster_spec: RayClusterSpec


class Metadata(Strict):
    name: Name


class RayCluster(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJob(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec
