# The four commands in a container, on CPU or GPU. Written with care, but not built by the authors, who have no Docker there.
#
#   docker build -t yolov5-nam .                                   # CPU builds of torch
#   docker build -t yolov5-nam --build-arg TORCH=cu128 .           # CUDA 12.8 builds
#   docker run --rm -it -v "$PWD/runs:/app/runs" yolov5-nam python train.py --cfg yolov5n-NAM.yaml --weights '' --imgsz 160
#   docker run --rm -it --gpus all --shm-size 8g -v /data:/data yolov5-nam python train.py --data /data/custom.yaml
#
# --shm-size: workers hand images over through shared memory, of which Docker gives 64 MB by default.

FROM python:3.12-slim

ARG TORCH=cpu

# What OpenCV and PyAV link to.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 ffmpeg \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir torch torchvision --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && pip install --no-cache-dir -r requirements.txt
COPY . .

# Not root: files in mounted folders belong to whom `docker run --user` names.
RUN useradd --create-home yolo && mkdir -p runs && chown -R yolo /app
USER yolo

CMD ["python", "train.py", "--help"]
