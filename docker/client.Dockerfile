# The command line, without TensorFlow and Evidently: compiles, submits and schedules pipelines, promotes and rolls back.
ARG BASE

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/client.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes --target /opt/extra -r /requirements/client.txt

FROM ${BASE}
COPY --from=build /opt/extra /opt/extra
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="mlops-client" \
      org.opencontainers.image.description="The command line of the matching model's pipelines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENTRYPOINT ["mlops"]
