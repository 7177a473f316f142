# The tracking server, with drivers for PostgreSQL and S3 and with its basic authentication.

FROM python:3.11-slim-bookworm AS build
ENV PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/venv
COPY requirements/mlflow.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/venv/bin/python3 install --no-deps --require-hashes -r /requirements/mlflow.txt

FROM python:3.11-slim-bookworm
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=mlflow \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true
USER 10001:10001
WORKDIR /tmp
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="mlops-mlflow" \
      org.opencontainers.image.description="MLflow tracking server with PostgreSQL and S3 drivers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
EXPOSE 5000
ENTRYPOINT ["mlflow", "server"]
CMD ["--host", "0.0.0.0", "--port", "5000"]
