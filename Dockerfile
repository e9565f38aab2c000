# One image for the server and the scheduler (and for MLflow, which is one of its dependencies).
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    PATH=/app/.venv/bin:$PATH

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.9

WORKDIR /app
# Dependencies first: they change less often than the package.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --extra postgres --extra onnx --no-install-project
COPY feedback_loop feedback_loop
COPY migrations migrations
RUN uv sync --frozen --no-dev --extra postgres --extra onnx --no-editable \
    && useradd --create-home loop \
    && mkdir -p /work/reports /work/spool /work/models /mlartifacts \
    && chown -R loop /work /mlartifacts

USER loop
WORKDIR /work
CMD ["feedback-loop", "--help"]
