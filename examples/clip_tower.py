"""The image tower of a CLIP made smaller and put into an ONNX model of its own; the text tower stays to the bit."""

import argparse
from pathlib import Path

import numpy
import onnxruntime
import transformers
from PIL import Image

import graphprune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", default="80%")
    parser.add_argument("--data", required=True, help="a folder of images with metadata.jsonl, or records")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("small-clip"))
    asked = parser.parse_args()

    backends = ("huggingface", "onnx{outputs=[image_embeds],folder=onnx-image}")
    options = graphprune.CompileOptions(
        asked.model, asked.target, asked.out, method="mope-clip", data=asked.data, scope="vision", backends=backends
    )
    graphprune.compile(options)

    processor = transformers.AutoImageProcessor.from_pretrained(asked.out, trust_remote_code=False)
    pixels = processor(Image.open(asked.image).convert("RGB"), return_tensors="np")["pixel_values"]
    session = onnxruntime.InferenceSession(asked.out / "onnx-image" / "model.onnx")
    found = session.run(["image_embeds"], {"pixel_values": pixels.astype(numpy.float32)})[0]
    print("embedding of", asked.image.name, found.shape, found[0, :4])


if __name__ == "__main__":
    main()
