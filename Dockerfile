# docker build -t cigan .                                    for CPUs
# docker build -t cigan-gpu --build-arg EXTRAS=demo,sample,serving,gpu .
# docker run --rm cigan cigan --help
# docker run --rm -p 5006:5006 cigan cigan-demo --address=0.0.0.0
# docker run --rm --gpus=all --user="$(id -u):$(id -g)" -v "$PWD:/data" cigan-gpu \
#   cigan --flagfile=paper.flags --data_dir=/data/tensorflow_datasets --workdir=/data/run
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
    && useradd --no-create-home --home-dir=/data cigan \
    && mkdir --mode=777 /data
# Any user can write here: --user gives the files of a mounted folder to their owner, and what is
# downloaded into the home folder (ImageNet weights) stays in it.
ENV HOME=/data
USER cigan
WORKDIR /data
CMD ["cigan", "--help"]
