# The program in a container, for the CPU or, with --build-arg DEVICE=cuda, for NVIDIA GPUs. The folder that is mounted
# at /work has the pictures; data/ and output/ are written there.
#
#   docker build -t lift-plus .
#   docker build -t lift-plus --build-arg DEVICE=cuda .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" lift-plus -d digits_lt -b clip_tiny -m lift+
#
# The second image needs `docker run --gpus all`. Scripts run with --entrypoint python and /app/scripts/predict.py after
# the image's name.
FROM python:3.12-slim
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# the packages of pyproject.toml with those of exports, before the program: their layer stays when that changes
COPY pyproject.toml /app/
RUN python -c "import tomllib; project = tomllib.load(open('/app/pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['export'], sep='\n')" > /tmp/requirements.txt \
    && if [ "$DEVICE" = cpu ]; then \
        grep -E '^torch(vision)?[>=]' /tmp/requirements.txt > /tmp/torch.txt; \
        pip install --index-url https://download.pytorch.org/whl/cpu -r /tmp/torch.txt; \
    fi \
    && pip install -r /tmp/requirements.txt

COPY main.py trainer.py LICENSE /app/
COPY configs /app/configs
COPY assets /app/assets
COPY utils /app/utils
COPY datasets /app/datasets
COPY models /app/models
COPY scripts /app/scripts

RUN useradd --create-home lift && install -d -o lift /work
USER lift
WORKDIR /work
ENTRYPOINT ["python", "/app/main.py"]
CMD ["--help"]
