# What every step needs, without TensorFlow and Evidently. Its stage `deps` is what trainer and monitor stand on too.

FROM python:3.11-slim-bookworm AS build
ENV PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# what comes on top of these dependencies lies beside them, so that each is a layer of its own
RUN python3 -m venv --without-pip /opt/venv && \
    printf '%s\n' /opt/extra /opt/mlops >"$(echo /opt/venv/lib/python3.*/site-packages)/layers.pth"
COPY requirements/base.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/venv/bin/python3 install --no-deps --require-hashes -r /requirements/base.txt
# headers and test suites, an eighth of it all, which nothing reads at run time
RUN find /opt/venv/lib -regextype posix-extended -type d \
    -regex '.*/(pyarrow/include|(pandas|pyarrow|scipy|sklearn|statsmodels)/(.*/)?tests)' -prune -exec rm -r {} +

FROM build AS code
COPY requirements/build.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/venv/bin/python3 install --no-deps --require-hashes -r /requirements/build.txt
COPY pyproject.toml README.md /src/
COPY matchmaking /src/matchmaking
COPY components /src/components
COPY pipelines /src/pipelines
COPY mlops /src/mlops
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/venv/bin/python3 install --no-deps --no-build-isolation --target /opt/mlops /src
# the dashboard's charts and their script, 1 MB; what makes them takes 95 MB and stays here
COPY requirements/dashboard.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/venv/bin/python3 install --no-deps --require-hashes --target /opt/charts \
    -r /requirements/dashboard.txt && \
    PYTHONPATH=/opt/mlops:/opt/charts PYTHONDONTWRITEBYTECODE=1 /opt/venv/bin/python3 \
    -m matchmaking.reporting.dashboard.assets

FROM python:3.11-slim-bookworm AS deps
COPY --from=build /opt/venv /opt/venv
# any user may run it, on a read-only root file system: only /tmp is written to, and nothing is imported from there
ENV PATH=/opt/mlops/bin:/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=mlops \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1 \
    MPLBACKEND=Agg \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true
USER 10001:10001
WORKDIR /tmp

FROM deps
COPY --from=code /opt/mlops /opt/mlops
ARG VERSION
ARG REVISION
ENV MLOPS_CODE_VERSION=${REVISION}
LABEL org.opencontainers.image.title="mlops-base" \
      org.opencontainers.image.description="Steps of the matching model's pipelines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
