# One image for the servers, the schedulers and the pages (and for MLflow, which is one of its dependencies).
FROM python:3.11.14-slim-bookworm AS build

ENV UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1

RUN pip install --no-cache-dir uv==0.13.9

WORKDIR /app
# Dependencies first: they change less often than the package.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --extra postgres --extra onnx --extra tracing --extra oidc --no-install-project
COPY feedback_loop feedback_loop
COPY migrations migrations
RUN uv sync --frozen --no-dev --extra postgres --extra onnx --extra tracing --extra oidc --no-editable

FROM python:3.11.14-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 loop \
    && mkdir -p /work/reports /work/spool /work/models /mlartifacts \
    && chown -R loop /work /mlartifacts \
    && chmod -R go= /work/* /mlartifacts

COPY --from=build /app/.venv /app/.venv
ENV PYTHONUNBUFFERED=1 \
    PATH=/app/.venv/bin:$PATH

USER 10001
WORKDIR /work
CMD ["feedback-loop", "--help"]
# Of a server; whoever runs something else says where that is well (docker-compose.yml does).
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://localhost:5001/health')"]
