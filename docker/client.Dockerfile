# The command line, without TensorFlow and Evidently: compiles, submits and schedules pipelines, promotes and rolls back.
ARG BASE

FROM ${BASE}
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="mlops-client" \
      org.opencontainers.image.description="The command line of the matching model's pipelines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENTRYPOINT ["mlops"]
