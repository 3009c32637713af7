# syntax=docker/dockerfile:1

# CPython 3.11 calls a plugin fastest of 3.11 to 3.13 (measured); see benchmarks/.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/headgate
WORKDIR /src
# What changes seldom comes first, so that a change of the sources does not fetch it again.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml','rb'))['project']['dependencies']))" > requirements.txt \
    && /opt/headgate/bin/pip install --no-cache-dir -c constraints.txt -r requirements.txt
COPY README.md hatch_build.py ./
COPY plugins_sdk plugins_sdk
COPY proxy proxy
# In an image the compiled build is a promise, so a failure to compile fails the build.
RUN HEADGATE_COMPILE=1 /opt/headgate/bin/pip install --no-cache-dir -c constraints.txt '.[kv]' \
    && /opt/headgate/bin/python -c "import proxy.protocol.backend as f; assert f.__file__.endswith('.so')"

FROM ${PYTHON_IMAGE}
RUN groupadd --system --gid 10001 headgate \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/headgate --create-home headgate \
    && mkdir -p /etc/headgate/plugins
COPY --from=build /opt/headgate /opt/headgate
COPY config/docker.toml /etc/headgate/
ENV PATH=/opt/headgate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/headgate
EXPOSE 6432 9632
# SIGTERM drains: clients finish their transactions, then the process ends.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9632/health/live', timeout=2)"]
ENTRYPOINT ["headgate"]
CMD ["serve", "--config", "/etc/headgate/docker.toml"]
