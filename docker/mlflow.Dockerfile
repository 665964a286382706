# An MLflow tracking server that keeps runs in PostgreSQL and artifacts in S3. Built by `make image`.
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY constraints.txt docker/mlflow.requirements.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --constraint constraints.txt --requirement mlflow.requirements.txt \
    && pip uninstall --yes setuptools pip \
    && find /opt/venv -type f \( -path '*/include/*' -o -name '*.a' -o -path '*/tests/*' \) -delete
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/lister \
    && /opt/lister/bin/pip install --constraint constraints.txt cyclonedx-bom \
    && /opt/lister/bin/cyclonedx-py environment --output-reproducible --output-file /opt/venv/sbom.json /opt/venv/bin/python

FROM ${BASE}
RUN groupadd --gid 1000 mlflow \
    && useradd --uid 1000 --gid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mlflow
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    LOGNAME=mlflow \
    GIT_PYTHON_REFRESH=quiet \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
COPY --from=build /opt/venv /opt/venv
USER 1000:1000
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]
ARG BASE
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cliptea-mlflow" \
      org.opencontainers.image.description="MLflow tracking server for PostgreSQL and S3" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
