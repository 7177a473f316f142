# base, and Evidently.
ARG DEPS
ARG BASE

FROM python:3.11-slim-bookworm AS build
ENV PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/monitor.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --no-deps --require-hashes --target /opt/extra -r /requirements/monitor.txt

FROM ${BASE} AS base

# not from base itself: new code must not renew the layer of dependencies
FROM ${DEPS}
COPY --from=build /opt/extra /opt/extra
COPY --from=base /opt/mlops /opt/mlops
ARG VERSION
ARG REVISION
ENV MLOPS_CODE_VERSION=${REVISION}
LABEL org.opencontainers.image.title="mlops-monitor" \
      org.opencontainers.image.description="Steps that compare data" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
