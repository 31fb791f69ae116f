# The codec and the demo on a CPU:
#
#     docker build -t sae .
#     docker run --rm -v "$PWD:/work" sae compress photo.jpg photo.sae
#     docker run --rm -v "$PWD:/work" sae demo --folder demo

FROM python:3.11-slim

COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock

COPY . /src
RUN pip install --no-cache-dir --no-deps /src && rm -r /src

WORKDIR /work
ENTRYPOINT ["sae"]
