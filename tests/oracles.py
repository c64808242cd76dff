"""Reference implementations in plain Python or plain torch, for all tests."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

# ---- losses: z the logits of one sample or (Z) of a step, y its label, n the class counts ----


def log_sum_exp(values: Sequence[float]) -> float:
    largest = max(values)
    return math.log(sum(math.exp(v - largest) for v in values)) + largest


def cross_entropy(z, y):
    """-log softmax(z)_y."""
    return log_sum_exp(z) - z[y]


def focal(z, y, gamma=2.0):
    """(1 - p_y)^gamma CE."""
    others = sum(math.exp(v - log_sum_exp(z)) for c, v in enumerate(z) if c != y)
    return others**gamma * cross_entropy(z, y)


def ldam(z, y, n, scale, margin=0.5):
    """z_y - scale m_y instead of z_y; m_c = n_c^(-1/4), scaled so that the largest is `margin`."""
    factor = margin / max(k**-0.25 for k in n if k)
    return cross_entropy([v - scale * factor * n[y] ** -0.25 if c == y else v for c, v in enumerate(z)], y)


def adjusted(z, y, n, shift):
    """Cross entropy of z + shift(n_c); a class without images is at minus infinity, out of the sum."""
    moved = [v + shift(k) for v, k in zip(z, n, strict=True) if k]
    return log_sum_exp(moved) - z[y] - shift(n[y])


def logit_adjusted(z, y, n, tau=1.0):
    """Cross entropy of z + tau log pi; plain cross entropy at tau = 0, for classes without images, too."""
    return cross_entropy(z, y) if tau == 0 else adjusted(z, y, n, lambda k: tau * math.log(k / sum(n)))


def balanced_softmax(z, y, n):
    """Cross entropy of z + log n."""
    return adjusted(z, y, n, math.log)


def mean(values):
    return sum(values) / len(values)


def weighted(Z, labels, n, weigh):
    """sum w_y CE / sum w_y, w divided by its mean over the classes with images."""
    middle = mean([weigh(k) for k in n if k])
    weights = [weigh(n[y]) / middle for y in labels]
    return sum(w * cross_entropy(z, y) for w, z, y in zip(weights, Z, labels, strict=True)) / sum(weights)


def class_balanced(Z, labels, n, beta=0.9999):
    """Weights one over the effective number of images, 1 + beta + ... + beta^(n_c - 1)."""
    return weighted(Z, labels, n, lambda k: 1 / sum(beta**i for i in range(k)))


def reweighted(Z, labels, n):
    """Weights 1 / pi_c."""
    return weighted(Z, labels, n, lambda k: 1 / (k / sum(n)))


def lade(Z, labels, n, alpha=0.1, lambda_=0.1):
    """LA's loss plus alpha times the regulariser, in which a class without images has the factor pi_c = 0."""
    regulariser = 0.0
    for c, k in enumerate(n):
        if k:
            prior = k / sum(n)
            own = [z[c] for z, y in zip(Z, labels, strict=True) if y == c]
            d = log_sum_exp([z[c] - math.log(prior) + math.log(1 / len(n)) for z in Z]) - math.log(len(Z))
            regulariser -= prior * ((mean(own) if own else 0) - d - lambda_ * d**2)
    return mean([logit_adjusted(z, y, n) for z, y in zip(Z, labels, strict=True)]) + alpha * regulariser


def _mean_of(formula: Callable) -> Callable:
    """The mean over a step of the formula of one sample (z, y, class counts, scale)."""
    return lambda Z, labels, n, scale, **options: mean(
        [formula(z, y, n, scale, **options) for z, y in zip(Z, labels, strict=True)]
    )


# the loss of a whole step by its name: logits (lists), labels, class counts, the head's scale, options -> a number
LOSS_FORMULAS: dict[str, Callable] = {
    "CE": _mean_of(lambda z, y, n, scale: cross_entropy(z, y)),
    "Focal": _mean_of(lambda z, y, n, scale, focal_gamma=2.0: focal(z, y, focal_gamma)),
    "LDAM": _mean_of(lambda z, y, n, scale, ldam_margin=0.5: ldam(z, y, n, scale, ldam_margin)),
    "CB": lambda Z, labels, n, scale, cb_beta=0.9999: class_balanced(Z, labels, n, cb_beta),
    "GRW": lambda Z, labels, n, scale: reweighted(Z, labels, n),
    "BS": _mean_of(lambda z, y, n, scale: balanced_softmax(z, y, n)),
    "LA": _mean_of(lambda z, y, n, scale, la_tau=1.0: logit_adjusted(z, y, n, la_tau)),
    "LADE": lambda Z, labels, n, scale, lade_alpha=0.1, lade_lambda=0.1: lade(Z, labels, n, lade_alpha, lade_lambda),
}


def numeric_gradient(function: Callable, z: list[list[float]], step: float = 1e-5) -> torch.Tensor:
    """The gradient of a function of a list of lists, by central differences."""
    gradient = [[0.0] * len(row) for row in z]
    for i, row in enumerate(z):
        for j in range(len(row)):
            ends = []
            for sign in (1, -1):
                moved = [list(r) for r in z]
                moved[i][j] += sign * step
                ends.append(function(moved))
            gradient[i][j] = (ends[0] - ends[1]) / (2 * step)
    return torch.tensor(gradient, dtype=torch.float64)


# ---- towers: one image or one text, token by token, in the precision of their tensors ----


def layer_norm(row, weight, bias, eps):
    return (row - row.mean()) / (row.var(correction=0) + eps).sqrt() * weight + bias


def bottleneck_formula(row, block, prefix):
    """Up(ReLU(Down(LN(x))))"""
    h = layer_norm(row, block[f"{prefix}.norm.weight"], block[f"{prefix}.norm.bias"], 1e-5)
    h = block[f"{prefix}.down.weight"] @ h + block[f"{prefix}.down.bias"]
    h = torch.where(h > 0, h, 0 * h)
    return block[f"{prefix}.up.weight"] @ h + block[f"{prefix}.up.bias"]


def block_formula(tokens, block, heads, quick_gelu, eps, extras, causal):
    """One block over tokens [(kind, row)]; block: its tensors by name.

    x <- prompt(x);  x <- x + Attn(LN1(x));  x <- x + MLP(LN2(x)) + side(x).
    extras: functions attached to it, {slot: [function, ...]}; each one gets the result of the one before:
      prompt        (tokens, block) -> tokens
      of_tensor     (tensor, block, name) -> the tensor that a Linear uses
      after_linear  (row, output, block, name) -> output
      after_norm    (output, block, name) -> output
      after_mlp     (output, block) -> output
      side          (row, block) -> the added term
    """

    def linear(row, name):
        weight, bias = block[f"{name}.weight"], block[f"{name}.bias"]
        for change in extras.get("of_tensor", ()):
            weight, bias = change(weight, block, f"{name}.weight"), change(bias, block, f"{name}.bias")
        y = weight @ row + bias
        for change in extras.get("after_linear", ()):
            y = change(row, y, block, name)
        return y

    def norm(row, name):
        y = layer_norm(row, block[f"{name}.weight"], block[f"{name}.bias"], eps)
        for change in extras.get("after_norm", ()):
            y = change(y, block, name)
        return y

    for change in extras.get("prompt", ()):
        tokens = change(tokens, block)
    kinds, x = zip(*tokens, strict=True)
    normed = [norm(row, "norm1") for row in x]
    qkv = torch.stack([linear(row, "attn.qkv") for row in normed])
    q, k, v = (part.unflatten(1, (heads, -1)) for part in qkv.chunk(3, dim=1))
    out = []
    for i, row in enumerate(x):
        seen, mixed = i + 1 if causal else len(x), []
        for h in range(heads):
            attention = (k[:seen, h] @ q[i, h] / q.shape[2] ** 0.5).softmax(0)
            mixed.append(attention @ v[:seen, h])
        row = row + linear(torch.cat(mixed), "attn.proj")
        hidden = linear(norm(row, "norm2"), "mlp.fc1")
        hidden = hidden * (1.702 * hidden).sigmoid() if quick_gelu else hidden * (1 + (hidden / 2**0.5).erf()) / 2
        hidden = linear(hidden, "mlp.fc2")
        for change in extras.get("after_mlp", ()):
            hidden = change(hidden, block)
        out.append(row + hidden + sum(change(row, block) for change in extras.get("side", ())))
    return list(zip(kinds, out, strict=True))


def blocks_formula(tokens, p, dim, depth, quick_gelu, eps, extras, layers, causal=False):
    """All blocks, `extras` in those of `layers`; p: the tower's tensors by name."""
    for i in range(depth):
        prefix = f"blocks.{i}."
        block = {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}
        here = extras if i in layers else {}
        tokens = block_formula(tokens, block, max(dim // 64, 1), quick_gelu, eps, here, causal)
    return tokens


def image_formula(image, p, depth, patch, clip, extras, layers):
    """The feature of one image [3, R, R]; p: the tower's tensors by name."""
    dim = len(p["class_token"])
    rows = range(0, image.shape[1], patch)
    patches = [image[:, top : top + patch, left : left + patch].flatten() for top in rows for left in rows]
    bias = 0 if clip else p["patch_embed.bias"]
    x = [p["class_token"], *(p["patch_embed.weight"].flatten(1) @ pixels + bias for pixels in patches)]
    x = [row + position for row, position in zip(x, p["positional_embedding"], strict=True)]
    if clip:
        x = [layer_norm(row, p["norm_pre.weight"], p["norm_pre.bias"], 1e-5) for row in x]
    tokens = [("class", x[0]), *(("patch", row) for row in x[1:])]
    eps = 1e-5 if clip else 1e-6
    tokens = blocks_formula(tokens, p, dim, depth, clip, eps, extras, layers)
    return layer_norm(tokens[0][1], p["norm.weight"], p["norm.bias"], eps)


def text_formula(ids, p, depth, extras, layers):
    """The feature of one text, its token ids [77]: the state of its last token, which has the largest id."""
    ids = ids.tolist()
    ids = ids[: ids.index(max(ids)) + 1]
    x = [p["token_embedding.weight"][i] + p["positional_embedding"][place] for place, i in enumerate(ids)]
    tokens = [("token", row) for row in x]
    tokens = blocks_formula(tokens, p, len(x[0]), depth, True, 1e-5, extras, layers, causal=True)
    return layer_norm(tokens[-1][1], p["norm.weight"], p["norm.bias"], 1e-5)


# ---- a whole model ----


class PlainClip(nn.Module):
    """CLIP with AdaptFormer and a cosine head as in the papers, in float32; p: tensors by native names.

    Three-dimensional attention with its softmax written out, x sigmoid(1.702 x), every token of every block.
    """

    def __init__(self, p):
        super().__init__()
        self.p = p

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def linear(self, x, name):
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def block(self, x, name, mask=0.0):
        y = self.linear(self.norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        heads = [part.split(64, dim=-1) for part in y.chunk(3, dim=-1)]
        mixed = [(q @ k.transpose(1, 2) / 8 + mask).softmax(-1) @ v for q, k, v in zip(*heads, strict=True)]
        x = x + self.linear(torch.cat(mixed, dim=-1), f"{name}.attn.proj")
        h = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        y = self.linear(h * torch.sigmoid(1.702 * h), f"{name}.mlp.fc2")
        if f"{name}.side.scale" in self.p:
            down = self.linear(self.norm(x, f"{name}.side.norm"), f"{name}.side.down").relu()
            y = y + self.p[f"{name}.side.scale"] * self.linear(down, f"{name}.side.up")
        return x + y

    def blocks(self, x, tower, mask=0.0):
        for i in range(sum(f"{tower}.blocks." in name and name.endswith("norm1.weight") for name in self.p)):
            x = self.block(x, f"{tower}.blocks.{i}", mask)
        return self.norm(x, f"{tower}.norm")

    def texts(self, tokens):
        x = self.p["text.token_embedding.weight"][tokens] + self.p["text.positional_embedding"]
        x = self.blocks(x, "text", torch.full((77, 77), -torch.inf).triu(1))
        return F.normalize(x[torch.arange(len(x)), tokens.argmax(1)] @ self.p["text_projection"], dim=-1)

    def forward(self, images):
        mean, std = (
            torch.tensor(x).view(3, 1, 1)
            for x in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        )
        x = F.conv2d((images.float() / 255 - mean) / std, self.p["tower.patch_embed.weight"], stride=8)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.p["tower.class_token"].expand(len(x), 1, -1), x], 1) + self.p["tower.positional_embedding"]
        f = self.blocks(self.norm(x, "tower.norm_pre"), "tower")[:, 0]
        return 25 * F.normalize(f, dim=-1) @ F.normalize(self.p["head.weight"], dim=-1).T
