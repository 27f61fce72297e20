# Two stages: the first builds a wheel and an environment, the second has neither compilers nor sources.
FROM python:3.12.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY presets presets
COPY wdm_cli wdm_cli
RUN python -m venv /opt/wdm \
    && /opt/wdm/bin/pip install --no-cache-dir -c constraints.txt .
# the loops that would otherwise be compiled at first use, for every kind of processor
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && /opt/wdm/bin/python -c "from wdm_cli.engine import native; native.build_for_any()"

FROM python:3.12.12-slim-bookworm
RUN useradd --create-home --uid 1000 wdm
COPY --from=build /opt/wdm /opt/wdm
# The root file system may be read-only: caches go to a folder one mounts, results to the working folder.
ENV PATH=/opt/wdm/bin:$PATH \
    WDM_CACHE_DIR=/cache \
    PYTHONUNBUFFERED=1
RUN mkdir /cache /work && chown wdm:wdm /cache /work
VOLUME ["/cache"]
USER 1000
WORKDIR /work
ENTRYPOINT ["wdm"]
CMD ["--help"]
