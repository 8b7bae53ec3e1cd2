# The image of every task of the pipeline, every pod of a training job, and `xkd` itself.
#
#   docker build --platform linux/amd64 --build-arg REVISION=$(git rev-parse HEAD) -t xkd:0.1.0 .
#
# builds the last target, `runtime`. The target `cpu`, for tasks that need no GPU, has a CPU build of torch and none of
# NVIDIA's libraries. PyPI has no such build for x86-64, so that it takes the URL of an index that does:
#
#   docker build --platform linux/amd64 --target cpu --build-arg TORCH_INDEX=URL --build-arg REVISION=$(git rev-parse HEAD) -t xkd:0.1.0-cpu .
#
# Layers of `runtime`, from the least to the most often changed:
#
#   Python on Debian, and a user
#   the locked packages in /opt/xkd   7.4 GiB: NVIDIA's libraries 4.4, torch 1.6, triton 0.6, all else 0.8
#   this package                      2 MB
#
# These are sizes of the files of the packages as installed in a virtual environment, without requirements-clouds.lock;
# with all packages of requirements.lock, it would be 8.0 GiB. Of the 0.8, 0.15 are pyarrow, 0.04 TensorBoard
# and 0.03 MLflow's client: run.tensorboard and run.mlflow work in every pod. A code change only ships a small layer.
# All packages are wheels or pure Python: nothing is compiled, and wheels bundle all native libraries that Debian slim
# lacks, except those of InfiniBand. The torch wheel is built for CUDA 12.8, which still supports the V100 (sm_70); the machine only needs the driver.

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base
RUN groupadd --gid 10001 xkd \
    && useradd --uid 10001 --gid xkd --no-create-home --home-dir /tmp xkd \
    && install -d -o xkd -g xkd /workspace /workspace/runs \
    && python -m venv /opt/xkd
# Training pods have a read-only root file system: they write to volumes and to /tmp. As HOME, /tmp also holds the
# caches of matplotlib, torch and triton. GKE installs the driver's libraries outside the default search path.
ENV PATH=/opt/xkd/bin:$PATH \
    HOME=/tmp \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
WORKDIR /workspace
# KFP overrides the entry point of components with `python3 -m kfp.dsl.executor_main`.
ENTRYPOINT ["xkd"]
CMD ["--help"]
LABEL org.opencontainers.image.title="xkd" \
      org.opencontainers.image.description="XKD: self-supervised audio-video pretraining by masked autoencoding and cross-modal distillation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY requirements-runtime.lock requirements-clouds.lock /opt/

# The sources do not leave this stage.
FROM base AS package
RUN pip install --no-deps "$(grep '^setuptools==' /opt/requirements-runtime.lock)"
COPY pyproject.toml README.md LICENSE /src/
COPY xkd /src/xkd
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /src

FROM base AS stack-cpu
ARG TORCH_INDEX
RUN test -n "$TORCH_INDEX" || { echo "the target cpu needs --build-arg TORCH_INDEX=URL" >&2; exit 1; }
# torch in its locked version from that index, and the other locked packages except those of CUDA.
RUN grep -E '^(torch|torchvision)==' /opt/requirements-runtime.lock > /opt/torch.lock \
    && grep -vE '^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' /opt/requirements-runtime.lock > /opt/cpu.lock \
    && pip install --no-deps --index-url "$TORCH_INDEX" -r /opt/torch.lock \
    && pip install --no-deps -r /opt/cpu.lock -r /opt/requirements-clouds.lock

FROM stack-cpu AS cpu
# Installed after the stack, because its `kfp` script replaces the one of the package kfp.
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
# A numeric user, because Kubernetes cannot verify that a named user is not root.
USER 10001:10001
# Last, so that a commit without code changes creates no new layer.
ARG REVISION=unknown
ENV XKD_COMMIT=$REVISION
LABEL org.opencontainers.image.revision="$REVISION"

FROM base AS stack
RUN pip install -r /opt/requirements-runtime.lock -r /opt/requirements-clouds.lock

FROM stack AS runtime
# The verbs of InfiniBand and RoCE with the drivers of their adapters; NCCL loads them where a pod has such a device.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libibverbs1 ibverbs-providers \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
USER 10001:10001
ARG REVISION=unknown
ENV XKD_COMMIT=$REVISION
LABEL org.opencontainers.image.revision="$REVISION"
