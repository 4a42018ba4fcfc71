# One file, two images; neither needs anything but a container engine to build.
#
#   cpu (the default):  docker build --build-arg TORCH_INDEX=<index> -t attention-analysis .
#   cuda:               docker build --target cuda -t attention-analysis:cuda .
#
# TORCH_INDEX is a package index that carries torch's CPU wheel; PyTorch's "get started" page names
# it. Without it torch comes from the default index, whose wheel for Linux on x86-64 is a CUDA build
# of several gigabytes: it runs on the CPU too, only larger. The cuda image takes that wheel on
# purpose; NVIDIA's libraries come with it, so the host needs no more than the driver and the
# NVIDIA container toolkit.
#
# BASE is any image with `python` and its module venv, of a version that pyproject.toml allows.

ARG BASE=python:3.11-slim-bookworm

# What the project depends on, without the project: layers are cached by content, so neither a
# change of code nor one of, say, the lint rules installs torch again.
FROM ${BASE} AS requirements
WORKDIR /build
COPY pyproject.toml ./
RUN python -c "import pathlib, tomllib; \
print(*tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']['dependencies'], sep='\n')" \
    > requirements.txt

FROM ${BASE} AS build
# pip has an environment of its own and installs into /opt/venv, so that no image carries it.
ENV PATH=/opt/pip/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_PYTHON=/opt/venv/bin/python \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/venv
COPY constraints.txt ./
COPY --from=requirements /build/requirements.txt ./

# Both end in the same way. torch's wheels carry C++ headers and the CPU's its tests too, 190 MB; of
# the programs beside them `import torch` looks for one. Bytecode is compiled here, once, so that it
# does not depend on file times. A package may hold a file for a newer Python (torch 2.13 does),
# which then stays uncompiled: hence `|| true`.
FROM build AS cpu-dependencies
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"; \
    fi
RUN pip install --constraint constraints.txt --requirement requirements.txt
RUN torch=$(echo /opt/venv/lib/python3*/site-packages/torch) \
    && rm -rf "$torch/include" "$torch/test" \
    && find "$torch/bin" -mindepth 1 ! -name torch_shm_manager -delete \
    && { python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true; }

FROM build AS cuda-dependencies
RUN pip install --constraint constraints.txt --requirement requirements.txt
RUN torch=$(echo /opt/venv/lib/python3*/site-packages/torch) \
    && rm -rf "$torch/include" "$torch/test" \
    && find "$torch/bin" -mindepth 1 ! -name torch_shm_manager -delete \
    && { python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true; }

FROM build AS project
COPY pyproject.toml README.md LICENSE ./
COPY schemas ./schemas
COPY service ./service
RUN pip install --no-deps --target /opt/app . \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/app

# The pass in C++: compiled with the base's own runtime library, and only its library leaves here.
FROM ${BASE} AS native
WORKDIR /build
# hadolint ignore=DL3008
RUN command -v g++ || { apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*; }
COPY service/attention/native ./service/attention/native
RUN python -m service.attention.native.build && test -f service/attention/native/pass.so

# What both images have in common. Nothing below /opt belongs to the user who runs it, and nothing
# is written at run time: the root file system may be read-only.
FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="attention-analysis" \
      org.opencontainers.image.description="An HTTP service that runs attention and tells how saturated it is, and why." \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ATTENTION_HOST=0.0.0.0 \
    ATTENTION_PORT=8000
# matplotlib keeps its list of fonts there; where the root is read-only, /tmp can still be written.
ENV MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Without the proxies that a container may inherit; an answer other than 200 is an exception.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['ATTENTION_PORT'] + '/health/ready', timeout=4)"]
CMD ["python", "-m", "service"]

FROM runtime AS cuda
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-dependencies /opt/venv /opt/venv
COPY --from=project /opt/app /opt/app
COPY --from=native /build/service/attention/native/pass.so /opt/app/service/attention/native/

FROM runtime AS cpu
COPY --from=cpu-dependencies /opt/venv /opt/venv
COPY --from=project /opt/app /opt/app
COPY --from=native /build/service/attention/native/pass.so /opt/app/service/attention/native/
