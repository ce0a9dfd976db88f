# Signalbox as one image for every process: `signalbox api`, the two Celery workers, Flower, `signalbox db upgrade`.
# What is installed is named by hash (requirements*.lock); the final image holds neither pip's cache nor a build tool.

FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/signalbox \
 && /opt/signalbox/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
 && python -m venv tools \
 && tools/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY statechart statechart
COPY common common
COPY orchestrator orchestrator
COPY task_runner task_runner
COPY api api
COPY signalbox signalbox
COPY migrations migrations
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/signalbox/bin/pip install --no-cache-dir --no-deps wheels/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home signalbox \
 && install --directory --owner signalbox /app /data
COPY --from=build /opt/signalbox /opt/signalbox
ENV PATH=/opt/signalbox/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SIGNALBOX_DATA=/data \
    SIGNALBOX_HOST=0.0.0.0
# Handlers of yours go to /app, or into an image made FROM this one; SIGNALBOX_HANDLERS names their modules.
WORKDIR /app
USER signalbox
EXPOSE 8000
CMD ["signalbox", "api"]
