# `pneumoseg dicom` for one folder, or `pneumoseg listen` as a service; see docs/pacs.md. Networks are not included.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/pneumoseg
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Wheels only, in the tested versions: no compiler is needed here, and none gets into the image.
COPY requirements.txt pyproject.toml setup.cfg README.md LICENSE ./
COPY pneumoseg pneumoseg
RUN /opt/pneumoseg/bin/pip install --only-binary=:all: --constraint requirements.txt '.[pacs]'

FROM ${BASE}
COPY --from=build /opt/pneumoseg /opt/pneumoseg
# The spool holds images of patients: a named volume takes over the owner and the rights of this folder.
RUN install -d -m 0700 -o 10001 -g 10001 /spool
# Works as any user, on a read-only root file system with a writable /tmp.
ENV PATH=/opt/pneumoseg/bin:$PATH HOME=/tmp KERAS_HOME=/tmp/keras MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["pneumoseg"]
# Without arguments: the folders that mercure or MONAI Deploy names in the environment.
CMD ["dicom", "--pipeline", "/pipeline"]
