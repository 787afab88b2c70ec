# The serving image: the official vLLM image, by digest, plus an entry point. Nothing is compiled.
#
#   servegate image build --tag registry.example/app/chat:v1.4.0 --push
#   docker build .                                       the same without the checks, labels and figures
#   docker build --build-arg VARIANT=cpu .               for machines without a GPU
#   docker build --build-arg BASE=… --build-arg FLAGS_BASE=… .     other bases, such as a mirror
#
# The last stage has no RUN: BuildKit then passes the base's layers on without unpacking them (29 GB for CUDA).
# What has to run, runs in the CPU image of the same version, whose flags are the same.
ARG VARIANT=cuda
ARG BASE=${VARIANT}
ARG FLAGS_BASE=cpu

FROM docker.io/vllm/vllm-openai:v0.29.0@sha256:c2914767605584b6d8f45686b82de173ecc99e781897aa3d0a66dacd72c51ae1 AS cuda

FROM docker.io/vllm/vllm-openai-cpu:v0.29.0-x86_64@sha256:66064cf683152e60eff2e5b18ec2d4ace236fb063c0a241f918691db9caddcf4 AS cpu

FROM ${FLAGS_BASE} AS flags
COPY src/servegate/serving /rootfs/opt/servegate/servegate/serving
ENV PYTHONPATH=/rootfs/opt/servegate
RUN python3 -m servegate.serving.record /rootfs/opt/servegate/flags.json \
    && find /rootfs -name __pycache__ -prune -exec rm -r {} + \
    && chmod -R a=rX /rootfs/opt/servegate \
    && mkdir -p /rootfs/home/vllm/.cache \
    && chmod -R g=u /rootfs/home/vllm

FROM ${BASE}
ARG VARIANT
LABEL org.opencontainers.image.title="vLLM with servegate's entry point" \
      org.opencontainers.image.description="vLLM that refuses a wrong configuration at once and drains before it stops" \
      org.opencontainers.image.licenses="Apache-2.0" \
      dev.servegate.variant="${VARIANT}"
COPY --from=flags /rootfs/opt/servegate /opt/servegate
COPY --from=flags --chown=2000:0 /rootfs/home/vllm /home/vllm
# USER is for torch, which asks for a name and not every base has one for 2000; any other user of group 0 works too.
# vLLM tells nobody outside what it serves.
ENV PYTHONPATH=/opt/servegate \
    HOME=/home/vllm \
    USER=vllm \
    VLLM_NO_USAGE_STATS=1
WORKDIR /home/vllm
USER 2000:0
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["python3", "-m", "servegate.serving.health"]
ENTRYPOINT ["python3", "-m", "servegate.serving"]
CMD []
