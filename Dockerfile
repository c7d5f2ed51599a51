# graphprune on a GPU:
#     docker build -t graphprune .
#     docker run --gpus all -v $PWD:/work graphprune compile ./llama -o small --target-params 50%
# torch's own wheels bring CUDA's libraries, so the driver of the host is all that is needed besides.
FROM python:3.12-slim

# A compiler for torch.compile, in training.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt torch==2.13.0 \
    && pip install --no-cache-dir -c /src/constraints.txt '/src[eval,gguf,lora,tensorboard]' \
    # of onnxruntime and onnxruntime-gpu the one that was installed last is imported
    && pip uninstall --yes onnxruntime && pip install --no-cache-dir 'onnxruntime-gpu>=1.23' \
    && rm -rf /src
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility TOKENIZERS_PARALLELISM=false
WORKDIR /work
ENTRYPOINT ["graphprune"]
