# A service of an export on a CPU, without torch. From the root of the repository:
#   docker build --file docker/cpu.Dockerfile --tag uniemox-cpu .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --publish 8000:8000 --env UNIEMOX_KEY \
#     --volume "$PWD/exported:/model:ro" uniemox-cpu
FROM python:3.12-slim

COPY docker/requirements-cpu.txt /build/
RUN pip install --no-cache-dir --requirement /build/requirements-cpu.txt
COPY pyproject.toml README.md LICENSE /build/uniemox/
COPY src /build/uniemox/src
RUN pip install --no-cache-dir --no-deps /build/uniemox && rm -r /build && useradd --no-create-home --uid 10001 uniemox

USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["uniemox", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/model"]
