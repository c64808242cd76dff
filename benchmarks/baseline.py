"""The same computation as a plain program writes it; for the benchmark alone, and no part of the product.

Pillow decodes and resizes in the worker, float32 travels, tokens come first ([N, B, D]), attention gets 3-D tensors,
every block computes every token, frozen weights stay float32 (autocast converts them in every step on a GPU), accuracy
is counted with .item(), crops are tested one after another, texts are encoded with all 77 tokens.

Its tensors have our names, so that it can take our weights and be shown to compute the same (tests/test_benchmarks.py).
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

# ---- towers ----


class PlainAttention(nn.Module):
    """[N, B, D] -> [N, B, D], on 3-D tensors [B * heads, N, D / heads] as torch's first MultiheadAttention."""

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
    """[N, B, D] -> [N, B, D]; with an AdaptFormer where width > 0."""

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

    def __init__(self, geometry, width: int):
        super().__init__()
        dim, patch = geometry.dim, geometry.patch
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.randn(dim))
        self.positional_embedding = nn.Parameter(torch.randn((geometry.resolution // patch) ** 2 + 1, dim))
        self.norm_pre, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*(PlainBlock(dim, width) for _ in range(geometry.depth)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.class_token.to(x.dtype).expand(1, x.shape[1], -1), x])
        x = self.norm_pre(x + self.positional_embedding[:, None].to(x.dtype))
        return self.norm(self.blocks(x)[0])


class PlainText(nn.Module):
    """CLIP's text tower: token ids [C, 77] -> [C, D]."""

    def __init__(self, geometry, vocabulary: int):
        super().__init__()
        dim = geometry.text_dim
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.positional_embedding = nn.Parameter(torch.randn(geometry.context, dim))
        self.blocks = nn.Sequential(*(PlainBlock(dim, causal=True) for _ in range(geometry.text_depth)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = (self.token_embedding(tokens) + self.positional_embedding).transpose(0, 1)
        x = self.norm(self.blocks(x)).transpose(0, 1)
        return x[torch.arange(len(x)), tokens.argmax(dim=1)]


class PlainHead(nn.Module):
    """The cosine head."""

    def __init__(self, num_classes: int, dim: int, scale: float = 25.0):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(num_classes, dim)), scale

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1)) * self.scale


class PlainClassifier(nn.Module):
    """A tower and a head; the AdaptFormers and the head train."""

    def __init__(self, geometry, width: int, num_classes: int):
        super().__init__()
        self.tower, self.head = PlainTower(geometry, width), PlainHead(num_classes, geometry.dim)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(".side." in name or name.startswith("head."))


# ---- training and testing ----


class PlainTrainer:
    """Trains and tests a PlainClassifier: LA loss, SGD; autocast on a GPU, float32 on a CPU."""

    def __init__(self, model: PlainClassifier, class_counts: Tensor, lr: float, device: torch.device):
        self.model, self.device = model.to(device), device
        self.log_prior = (class_counts.double() / class_counts.sum()).clamp(min=1e-300).log().float().to(device)
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr, momentum=0.9, weight_decay=5e-4)
        self.right = [0] * len(class_counts)
        self.seen = [0] * len(class_counts)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def logits(self, images: Tensor) -> Tensor:
        with self.autocast():
            features = self.model.tower(images)
        return self.model.head(features.float())

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One step on normalised float32 images; returns its loss."""
        images, labels = images.to(self.device), labels.to(self.device)
        self.model.train()
        self.optimizer.zero_grad()
        logits = self.logits(images)
        loss = F.cross_entropy(logits + self.log_prior, labels)
        loss.backward()
        self.optimizer.step()
        self.count(logits, labels)
        return loss.item()

    def count(self, logits: Tensor, labels: Tensor) -> float:
        """Adds a batch to the classes' accuracies, one wait for each number; returns their mean."""
        for right, label in zip(logits.argmax(1) == labels, labels, strict=True):
            self.right[label.item()] += right.item()
            self.seen[label.item()] += 1
        return float(np.mean([a / b for a, b in zip(self.right, self.seen, strict=True) if b]))

    @torch.no_grad()
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """The logits of normalised float32 crops [B, K, 3, R, R], averaged over the K crops."""
        self.model.eval()
        outputs = []
        for crops, labels in batches:
            crops, labels = crops.to(self.device), labels.to(self.device)
            logits = sum(self.logits(crops[:, k]) for k in range(crops.shape[1])) / crops.shape[1]
            self.count(logits, labels)
            outputs.append(logits.cpu())
        return torch.cat(outputs)


# ---- texts ----


@torch.no_grad()
def plain_semantic(text: PlainText, projection: Tensor, image_projection: Tensor, tokens: Tensor) -> Tensor:
    """First weights of a head from token ids [C, 77]: float32, 256 names at a time, all tokens."""
    parts = [text(part.to(projection.device)) @ projection for part in tokens.split(256)]
    features = F.normalize(torch.cat(parts), dim=-1)
    return F.normalize(features @ image_projection.T, dim=-1)


# ---- images ----


class PlainImages(Dataset):
    """Images by (epoch, index): decoded, cut and resized by Pillow; normalised float32 [3, R, R], and the label.

    box(height, width, epoch, index) -> (top, left, height, width) of a training crop; without it the short side is
    resized to resolution * 8 / 7, and the centre is cut.
    """

    def __init__(self, paths: list[str], labels: np.ndarray, resolution: int, mean, std, box: Callable | None = None):
        self.paths, self.labels, self.resolution, self.box = paths, labels, resolution, box
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, sample: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = sample
        image, side = Image.open(self.paths[index]).convert("RGB"), self.resolution
        if self.box is not None:
            top, left, height, width = self.box(image.height, image.width, epoch, index)
            image = image.crop((left, top, left + width, top + height)).resize((side, side), Image.BICUBIC)
        else:
            scale = (side + side // 7) / min(image.size)
            image = image.resize((int(image.width * scale), int(image.height * scale)), Image.BICUBIC)
            left, top = round((image.width - side) / 2), round((image.height - side) / 2)
            image = image.crop((left, top, left + side, top + side))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return (pixels - self.mean) / self.std, int(self.labels[index])


def plain_loader(images: PlainImages, steps, num_workers: int) -> DataLoader:
    """Batches (images, labels) of the samples that `steps` lists."""
    return DataLoader(images, batch_sampler=steps, num_workers=num_workers)
