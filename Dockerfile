# docker build -t cigan .                                    for CPUs
# docker build -t cigan-gpu --build-arg EXTRAS=demo,sample,serving,gpu .
# docker run --rm cigan cigan --help
# docker run --rm --gpus=all -v "$PWD:/data" cigan-gpu cigan --flagfile=paper.flags --workdir=/data/run
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir=/wheel .

FROM python:3.11-slim
ARG EXTRAS=demo,sample,serving
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
# With the extra `gpu` pip brings CUDA as well: the host needs NVIDIA's driver and container toolkit.
RUN pip install --no-cache-dir --constraint=/wheel/constraints.txt "$(ls /wheel/*.whl)[$EXTRAS]" \
    && rm -r /wheel \
    && useradd --create-home cigan
USER cigan
WORKDIR /data
CMD ["cigan", "--help"]
