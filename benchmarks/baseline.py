"""The baseline of the benchmark: the same computation as a plain program, independent of the product's code.

Pillow decodes and resizes in the worker, float32 is copied to the device, tokens come first ([N, B, D]), attention uses
3-D tensors, every block computes every token, frozen weights stay float32 (autocast converts them in every step on a
GPU), accuracy is counted with .item(), crops are tested one after another, texts are encoded with all 77 tokens.

Parameters have the product's names, so both use the same weights; tests/test_benchmarks.py compares the results.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
CONTEXT, VOCABULARY = 77, 49408
SCALE = 25.0  # of the cosine head
Box = tuple[int, int, int, int]
Draw = Callable[[int, int, int, int], tuple[Box, bool]]
Batches = list[list[tuple[int, int]]]  # samples (epoch, index) of each batch


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a CLIP ViT; by default those of ViT-B/16. Heads are 64 wide."""

    dim: int = 768
    depth: int = 12
    patch: int = 16
    resolution: int = 224
    joint: int = 512
    text_dim: int = 512
    text_depth: int = 12


# ---- towers ----


class PlainAttention(nn.Module):
    """[N, B, D] -> [N, B, D], on 3-D tensors [B * heads, N, D / heads] as in torch's first MultiheadAttention."""

    def __init__(self, dim: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens, batch, dim = x.shape
        shape = tokens, batch * self.heads, dim // self.heads
        q, k, v = (part.reshape(shape).transpose(0, 1) for part in self.qkv(x).chunk(3, dim=-1))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(x.transpose(0, 1).reshape(tokens, batch, dim))


class PlainMlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class PlainAdaptFormer(nn.Module):
    def __init__(self, dim: int, width: int):
        super().__init__()
        self.norm, self.down, self.up = nn.LayerNorm(dim), nn.Linear(dim, width), nn.Linear(width, dim)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(self.norm(x)))) * self.scale


class PlainBlock(nn.Module):
    """[N, B, D] -> [N, B, D]; with an AdaptFormer if width > 0."""

    def __init__(self, dim: int, width: int = 0, causal: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = PlainAttention(dim, max(dim // 64, 1), causal), PlainMlp(dim)
        self.side = PlainAdaptFormer(dim, width) if width else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x)) + (self.side(x) if self.side is not None else 0)


class PlainTower(nn.Module):
    """CLIP's image tower: images, normalised float32 [B, 3, R, R] -> [B, D]."""

    def __init__(self, sizes: Sizes, width: int):
        super().__init__()
        dim, patch = sizes.dim, sizes.patch
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.randn(dim))
        self.positional_embedding = nn.Parameter(torch.randn((sizes.resolution // patch) ** 2 + 1, dim))
        self.norm_pre, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*(PlainBlock(dim, width) for _ in range(sizes.depth)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.class_token.to(x.dtype).expand(1, x.shape[1], -1), x])
        x = self.norm_pre(x + self.positional_embedding[:, None].to(x.dtype))
        return self.norm(self.blocks(x)[0])


class PlainText(nn.Module):
    """CLIP's text tower: token ids [C, 77] -> [C, D]."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        dim = sizes.text_dim
        self.token_embedding = nn.Embedding(VOCABULARY, dim)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, dim))
        self.blocks = nn.Sequential(*(PlainBlock(dim, causal=True) for _ in range(sizes.text_depth)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = (self.token_embedding(tokens) + self.positional_embedding).transpose(0, 1)
        x = self.norm(self.blocks(x)).transpose(0, 1)
        return x[torch.arange(len(x)), tokens.argmax(dim=1)]


class PlainModel(nn.Module):
    """A tower and a cosine head; the AdaptFormers and the head are trainable."""

    def __init__(self, sizes: Sizes, width: int, num_classes: int):
        super().__init__()
        self.tower, self.head = PlainTower(sizes, width), nn.Linear(sizes.dim, num_classes, bias=False)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(".side." in name or name.startswith("head."))


# ---- training and testing ----


class PlainTrainer:
    """Trains and tests a PlainModel: LA loss, SGD; autocast on a GPU, float32 on a CPU."""

    def __init__(self, model: PlainModel, class_counts: Tensor, lr: float, device: torch.device):
        self.model, self.device = model.to(device), device
        self.log_prior = (class_counts.double() / class_counts.sum()).log().float().to(device)
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trainable, lr, momentum=0.9, weight_decay=5e-4)
        self.correct = [0] * len(class_counts)
        self.seen = [0] * len(class_counts)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def logits(self, images: Tensor) -> Tensor:
        with self.autocast():
            features = self.model.tower(images)
        return SCALE * F.linear(F.normalize(features.float(), dim=-1), F.normalize(self.model.head.weight, dim=-1))

    def train_step(self, images: Tensor, labels: Tensor, micro_batches: int = 1) -> float:
        """Takes one step on normalised float32 images; returns its loss."""
        images, labels = images.to(self.device), labels.to(self.device)
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        for x, y in zip(images.chunk(micro_batches), labels.chunk(micro_batches), strict=True):
            logits = self.logits(x)
            loss = F.cross_entropy(logits + self.log_prior, y, reduction="sum") / len(labels)
            loss.backward()
            self.count(logits, y)
            total += loss.item()
        self.optimizer.step()
        return total

    def count(self, logits: Tensor, labels: Tensor) -> float:
        """Adds a batch to the class accuracies, reading each number with .item(); returns their mean."""
        for correct, label in zip(logits.argmax(1) == labels, labels, strict=True):
            self.correct[label.item()] += correct.item()
            self.seen[label.item()] += 1
        return float(np.mean([a / b for a, b in zip(self.correct, self.seen, strict=True) if b]))

    @torch.no_grad()
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """The logits of normalised float32 crops [B, K, 3, R, R], averaged over the K crops."""
        self.model.eval()
        outputs = []
        for crops, labels in batches:
            crops, labels = crops.to(self.device), labels.to(self.device)
            logits = torch.stack([self.logits(crops[:, k]) for k in range(crops.shape[1])]).mean(0)
            self.count(logits, labels)
            outputs.append(logits.cpu())
        return torch.cat(outputs)


# ---- images ----


class PlainImages(Dataset):
    """The images in ROOT/SPLIT/CLASS/ by (epoch, index), read by Pillow: normalised float32, and the label.

    draw(height, width, epoch, index) -> box (top, left, height, width) of a training crop [3, R, R], and whether it is
    mirrored. Without it the short side is resized to R + expand, and test crops [crops, 3, R, R] are cut: 1 = the
    centre, 5 = corners and centre.
    """

    def __init__(
        self, root: Path, split: str, resolution: int, draw: Draw | None = None, expand: int = 0, crops: int = 1
    ):
        classes = {folder.name: label for label, folder in enumerate(sorted((root / "train").iterdir()))}
        self.paths = sorted((root / split).glob("*/*"))
        self.labels = [classes[path.parent.name] for path in self.paths]
        self.resolution, self.draw, self.expand, self.crops = resolution, draw, expand, crops

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, sample: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = sample
        image = Image.open(self.paths[index]).convert("RGB")
        if self.draw is None:
            return self.test_crops(image), self.labels[index]
        box, mirrored = self.draw(image.height, image.width, epoch, index)
        return self.train_crop(image, box, mirrored), self.labels[index]

    def train_crop(self, image: Image.Image, box: Box, mirrored: bool) -> Tensor:
        image = TF.resized_crop(image, *box, [self.resolution] * 2, TF.InterpolationMode.BICUBIC)
        return to_tensor(TF.hflip(image) if mirrored else image)

    def test_crops(self, image: Image.Image) -> Tensor:
        image = TF.resize(image, self.resolution + self.expand, TF.InterpolationMode.BICUBIC)
        cut = TF.five_crop(image, self.resolution) if self.crops == 5 else [TF.center_crop(image, self.resolution)]
        return torch.stack([to_tensor(crop) for crop in cut])


def to_tensor(image: Image.Image) -> Tensor:
    """Normalised float32 [3, H, W]."""
    return normalise(TF.pil_to_tensor(image))


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] -> float32."""
    return TF.normalize(pixels.float() / 255, MEAN, STD)


def plain_loader(images: PlainImages, batches: Batches, num_workers: int) -> DataLoader:
    """Batches (images, labels) of these samples."""
    pin_memory = torch.cuda.is_available()
    return DataLoader(images, batch_sampler=batches, num_workers=num_workers, pin_memory=pin_memory)


def sequential_samples(size: int, batch_size: int, num_epochs: int = 1) -> Batches:
    """The samples of each batch, in the order of the list."""
    return [
        [(epoch, index) for index in range(start, min(start + batch_size, size))]
        for epoch in range(num_epochs)
        for start in range(0, size, batch_size)
    ]


def seconds_per_image(batches: Iterable[tuple[Tensor, Tensor]], workers: int, device: torch.device) -> float:
    """Seconds per image on the device, measured once every worker has returned its first batch."""
    first, times, images = max(workers, 1), [], 0
    for pixels, _ in batches:
        pixels.to(device)
        times.append(time.perf_counter())
        images += len(pixels) if len(times) > first else 0
    return (times[-1] - times[first - 1]) / images


# ---- measured functions: each `prepare` function prepares its input and returns a function to time ----


def load_trainer(device: torch.device, file: Path) -> PlainTrainer:
    """The trainer with the sizes, weights and class counts in a file, {sizes, width, weights, class_counts, lr}."""
    content: dict[str, Any] = torch.load(file)
    model = PlainModel(Sizes(**content["sizes"]), content["width"], len(content["class_counts"]))
    model.load_state_dict(content["weights"], strict=True)
    return PlainTrainer(model, content["class_counts"], content["lr"], device)


def prepare_training(
    device: torch.device, file: Path, images: Tensor, labels: Tensor, steps: int, micro_batches: int
) -> Callable[[], list[float]]:
    """Steps on one batch of normalised images -> their losses."""
    trainer = load_trainer(device, file)
    images = images.pin_memory() if device.type == "cuda" else images
    return lambda: [trainer.train_step(images, labels, micro_batches) for _ in range(steps)]


def prepare_testing(
    device: torch.device, file: Path, images: PlainImages, batch_size: int, workers: int
) -> Callable[[], int]:
    """A test -> the number of images."""
    trainer, batches = load_trainer(device, file), sequential_samples(len(images), batch_size)
    return lambda: len(trainer.evaluate(plain_loader(images, batches, workers)))


def prepare_reading(device: torch.device, images: PlainImages, batches: Batches, workers: int) -> Callable[[], float]:
    """The loader -> its seconds per image."""
    return lambda: seconds_per_image(plain_loader(images, batches, workers), workers, device)


def prepare_naming(device: torch.device, file: Path, names: list[str]) -> Callable[[], Tensor]:
    """Initial weights of a head, [C, D], from class names: float32, 256 names at a time, all tokens.

    file: {sizes, text, projection, image_projection}.
    """
    from open_clip.tokenizer import tokenize

    content: dict[str, Any] = torch.load(file, map_location=device)
    text = PlainText(Sizes(**content["sizes"])).to(device)
    text.load_state_dict(content["text"], strict=True)
    tokenize(names[:1])  # loads the vocabulary

    @torch.no_grad()
    def first_weights() -> Tensor:
        tokens = tokenize([f"a photo of a {name}." for name in names])
        parts = [text(part.to(device)) @ content["projection"] for part in tokens.split(256)]
        features = F.normalize(torch.cat(parts), dim=-1)
        return F.normalize(features @ content["image_projection"].T, dim=-1).cpu()

    return first_weights
