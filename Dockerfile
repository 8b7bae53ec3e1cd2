# One image for every task of the pipeline, every pod of a training job, and `xkd` itself.
#
#   docker build --platform linux/amd64 --build-arg REVISION=$(git rev-parse HEAD) -t xkd:0.1.0 .
#
# Layers, from the least to the most often changed:
#
#   Python on Debian, and a user
#   the locked stack in /opt/xkd      7.9 GiB: NVIDIA's libraries 4.3, torch 1.7, triton 0.6, all else 1.3
#   this package                      2 MB
#
# (unpacked sizes, measured in a virtual environment). A code change therefore only ships a small layer. All packages
# are wheels or pure Python: nothing is compiled, and wheels bundle all native libraries that Debian slim lacks. The
# torch wheel is built for CUDA 12.8, which still supports the V100 (sm_70); the machine only needs the driver.

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS stack
RUN groupadd --gid 10001 xkd \
    && useradd --uid 10001 --gid xkd --no-create-home --home-dir /tmp xkd \
    && install -d -o xkd -g xkd /workspace /workspace/runs
COPY requirements.lock /opt/
RUN python -m venv /opt/xkd \
    && /opt/xkd/bin/pip install --no-cache-dir --disable-pip-version-check -r /opt/requirements.lock

# The sources do not leave this stage. setuptools is in the lock file.
FROM stack AS package
COPY pyproject.toml README.md LICENSE /src/
COPY xkd /src/xkd
RUN /opt/xkd/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /src

FROM stack
# Installed after the stack, because its `kfp` script replaces the one of the package kfp.
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    /opt/xkd/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /wheels/*.whl

# Training pods have a read-only root file system: they write to volumes and to /tmp. As HOME, /tmp also holds the
# caches of matplotlib, torch and triton. GKE installs the driver's libraries outside the default search path.
ENV PATH=/opt/xkd/bin:$PATH \
    HOME=/tmp \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    PYTHONUNBUFFERED=1
# A numeric user, because Kubernetes cannot verify that a named user is not root.
USER 10001:10001
WORKDIR /workspace
# KFP overrides the entry point of components with `python3 -m kfp.dsl.executor_main`.
ENTRYPOINT ["xkd"]
CMD ["--help"]

# Last, so that a commit without code changes creates no new layer.
ARG REVISION=unknown
ENV XKD_COMMIT=$REVISION
LABEL org.opencontainers.image.title="xkd" \
      org.opencontainers.image.description="XKD: self-supervised audio-video pretraining by masked autoencoding and cross-modal distillation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION"
