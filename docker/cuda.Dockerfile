# A service of a model folder on a GPU, in torch. From the root of the repository:
#   docker build --file docker/cuda.Dockerfile --tag uniemox-cuda .
#   docker run --gpus all --read-only --tmpfs /tmp --cap-drop ALL --publish 8000:8000 --env UNIEMOX_KEY \
#     --volume "$PWD/runs/f/model:/model:ro" uniemox-cuda
FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04

RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
ENV PATH=/venv/bin:$PATH
COPY pyproject.toml README.md LICENSE /build/uniemox/
COPY src /build/uniemox/src
RUN python3 -m venv /venv && pip install --no-cache-dir '/build/uniemox[serve,explain]' \
  && rm -r /build && useradd --no-create-home --uid 10001 uniemox

USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["uniemox", "serve", "--host", "0.0.0.0", "--port", "8000", "--device", "cuda"]
CMD ["/model"]
