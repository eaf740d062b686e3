# ccm-fast without torch: encodes and decodes pictures in the folder that is mounted at /data.
#
#     docker build -t ccm-fast .
#     docker run --rm -v "$PWD:/data" ccm-fast encode photo.jpg photo.ccm
#
# With torch, for efforts above 3 and training (200 MB more):
#     docker build --build-arg TORCH="torch --index-url https://download.pytorch.org/whl/cpu" -t ccm-fast .
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/ccm
ARG TORCH=""
RUN if [ -n "$TORCH" ]; then /opt/ccm/bin/pip install --no-cache-dir $TORCH; fi
COPY . /src
RUN /opt/ccm/bin/pip install --no-cache-dir "/src$([ -z "$TORCH" ] || echo '[torch]')" && /opt/ccm/bin/ccm-fast selftest

FROM python:3.12-slim
COPY --from=build /opt/ccm /opt/ccm
WORKDIR /data
ENTRYPOINT ["/opt/ccm/bin/ccm-fast"]
CMD ["--help"]
