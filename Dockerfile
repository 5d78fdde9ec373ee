# syntax=docker/dockerfile:1
#
# docker build -t YOUR-REGISTRY/modpo . && docker push YOUR-REGISTRY/modpo
#
# What every node of a cluster runs: modpo with its libraries, compiled to bytecode, for a user who is not root. Name it
# in the cluster file by the digest that `docker push` prints. No model, no data and no secret is in it: runs are on a
# file system that is mounted, and the token of the cluster comes as a file or from a Kubernetes secret.
# The tests read this file; they cannot build it.
#
# Training takes torch's AdamW under every ZeRO stage and compiles no operation of DeepSpeed's. Where a DeepSpeed file
# of your own asks for one, compile it here, once, and not at the first step of every container:
#   --build-arg BUILD_BASE=IMAGE-WITH-NVCC-AND-PYTHON-3.12 --build-arg DEEPSPEED_OPS=DS_BUILD_CPU_ADAM=1
ARG BUILD_BASE=python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254
ARG EXTRAS=cluster,gcp,quantization,rules,s3

# Only the wheels of this stage go on.
FROM ${BUILD_BASE} AS wheels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential libaio-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY modpo modpo
ARG EXTRAS
RUN python3 -m venv /build \
    && /build/bin/pip wheel --no-cache-dir --wheel-dir /wheels ".[${EXTRAS}]"
ARG DEEPSPEED_OPS=
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0"
# DeepSpeed must see the torch that its operations are for, so it is installed first and isolation is off.
RUN if [ -n "${DEEPSPEED_OPS}" ]; then \
        command -v nvcc || { echo "DEEPSPEED_OPS needs a BUILD_BASE with nvcc" >&2; exit 1; } \
        && /build/bin/pip install --no-cache-dir --no-index --find-links /wheels deepspeed setuptools \
        && version="$(/build/bin/python -c 'from importlib.metadata import version; print(version("deepspeed"))')" \
        && rm /wheels/deepspeed-*.whl \
        && env DS_BUILD_OPS=0 ${DEEPSPEED_OPS} /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation \
            --wheel-dir /wheels "deepspeed==${version}"; \
    fi

FROM python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254
# The head of a cluster starts the other nodes through ssh and rsync; KubeRay's probes call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/*
# The cluster files give the run folder to the number 1000. Ray mounts the token into ~/.ray, which would become root's.
RUN useradd --create-home --uid 1000 --shell /bin/bash modpo \
    && install --directory --owner=modpo --group=modpo --mode=700 /home/modpo/.ray
ARG EXTRAS
# Into the Python that is on every login shell's path, since Ray and KubeRay start commands in such shells.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --compile --no-index --find-links /wheels "modpo[${EXTRAS}]"
COPY ray_jobs /opt/modpo/ray_jobs
RUN python -m compileall -q /opt/modpo
# HOME: where Ray mounts the token. NVIDIA: without these the container runtime shows no GPU. TORCH_EXTENSIONS_DIR: a
# folder of this container alone, since a build that was killed leaves a lock that all others would wait for.
ENV HOME=/home/modpo \
    PYTHONPATH=/opt/modpo \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TORCH_EXTENSIONS_DIR=/home/modpo/torch-extensions
# The variables of ray_jobs/runtime_env.yaml, for Ray's own processes and for jobs that are submitted without it.
ENV OMP_NUM_THREADS=1 \
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=1800 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HUB_DISABLE_TELEMETRY=1
# A node starts as many processes at a time as it has CPUs to give away: where drivers run that would be one.
ENV RAY_worker_maximum_startup_concurrency=16
USER 1000:1000
WORKDIR /home/modpo
CMD ["bash"]
