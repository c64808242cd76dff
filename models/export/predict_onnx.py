"""Classifies pictures: python predict_onnx.py PICTURES...   It needs onnxruntime, numpy and Pillow alone."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main() -> None:
    """Prints the five most probable classes of each picture."""
    folder = Path(__file__).parent
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    images = about["images"]
    side, size = images["resolution"], images["resized_to"]
    for path in sys.argv[1:]:
        picture: Image.Image = Image.open(path)
        picture = ImageOps.exif_transpose(picture) if images["exif_orientation"] else picture
        if picture.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip to 8
            levels = 255 * (np.asarray(picture) / (2 ** images["bit_depth"] - 1)).clip(0, 1)
            picture = Image.fromarray(levels.round().astype(np.uint8))
        picture = picture.convert("RGB")
        shorter = min(picture.size)
        shape = [size, size] if images["rule"] == "squash" else [int(size * s / shorter) for s in picture.size]
        picture = picture.resize(shape, Image.Resampling[images["interpolation"].upper()])
        left, top = (round((s - side) / 2) for s in shape)
        pixels = np.asarray(picture.crop((left, top, left + side, top + side))).transpose(2, 0, 1)
        probabilities = session.run(["probabilities"], {"images": pixels[None]})[0][0]
        best = (-probabilities).argsort(kind="stable")[:5]
        print(path, *(f"{about['classes'][c]} {probabilities[c]:.4f}" for c in best), sep="\t")


if __name__ == "__main__":
    main()
