# syntax=docker/dockerfile:1
#
#   docker build -t captiond .
#   docker run -p 127.0.0.1:8710:8710 -e CAPTIOND_API_KEYS="me:$(openssl rand -hex 16)" captiond
#
# Without a key the server refuses to listen for others, says so, and exits with status 1.
# For an NVIDIA GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# For packages without a wheel for this machine's processor; none of it reaches the final image.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/captiond
WORKDIR /src
COPY constraints.txt ./
# The same order as in the Makefile: torch first, so that nothing else decides its build.
RUN /opt/captiond/bin/pip install -c constraints.txt --extra-index-url "${TORCH_INDEX}" torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY streaming streaming
COPY server server
COPY clients clients
COPY load_tests load_tests
RUN /opt/captiond/bin/pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/captiond/bin/pip install -c constraints.txt /wheels/captiond-*.whl \
    && /opt/captiond/bin/pip install -c constraints.txt --no-deps resemblyzer

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 captiond \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/captiond captiond \
    && install -d -m 0750 -o captiond -g captiond /var/lib/captiond /var/cache/huggingface
COPY --from=build /opt/captiond /opt/captiond
ENV PATH=/opt/captiond/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CAPTIOND_STORE_URL=/var/lib/captiond/captions.db \
    CAPTIOND_LOG_FORMAT=json \
    HF_HOME=/var/cache/huggingface \
    PYANNOTE_METRICS_ENABLED=false
USER 10001:10001
WORKDIR /var/lib/captiond
# The transcripts, and the checkpoints that were fetched.
VOLUME ["/var/lib/captiond", "/var/cache/huggingface"]
EXPOSE 8710
# SIGTERM drains: give the container a longer grace period than --drain-s (25 s).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8710/readyz', timeout=2)"]
ENTRYPOINT ["captiond"]
CMD ["serve", "--host", "0.0.0.0"]
