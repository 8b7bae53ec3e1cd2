# One image for every step. The locked stack and the package are built in the first stage; the second
# carries only the environment, runs as a plain user and writes nowhere but to mounted volumes.
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/xkd
COPY requirements.lock /src/
RUN /opt/xkd/bin/pip install -r /src/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY xkd /src/xkd
RUN /opt/xkd/bin/pip install --no-deps --no-build-isolation /src

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="xkd" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/xkd/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home xkd && install -d -o xkd /workspace
COPY --from=build /opt/xkd /opt/xkd
USER 10001
WORKDIR /workspace
ENTRYPOINT ["xkd"]
