"""Heads on text towers of every kind: zero-shot logits by open_clip, learnt prompts, a step, semantic starts."""

import functools
import re

import open_clip
import pytest
import torch
import torch.nn.functional as F
from cases import covering
from helpers import assert_near, normal_images, refused
from text_towers import DIM, KINDS, open_clip_pair, our_backbone
from tokenizers import Tokenizer as Backend

from models import Model
from models.backbones.tokenizer import ClipTokenizer, Frame, Tokenizer
from models.heads import HEAD_INITS
from models.heads.texts import CachedTextFeatures
from models.peft.coop import coop_prompts, photo_prompts
from utils.config.schema import methods_of
from utils.errors import ModelError

NAMES = ["cat", "tree_frog", "golden eagle", "X"]
FEATURES = torch.randn(5, DIM, generator=torch.Generator().manual_seed(5))
WITH_BIAS = ["siglip", "siglip2"]  # of the text projection and of the logits


def create(backbone, head=None, methods=None, text_methods=None, names=NAMES, **options):
    return Model.create(backbone, names, head, methods, text_methods, **options)


def prompts(names=NAMES):
    return [f"a photo of a {name.replace('_', ' ')}." for name in names]


# ---- zero-shot ----


@pytest.mark.parametrize(("kind", "image_bias"), covering([*KINDS], [False, True], together=1))
@torch.no_grad()
def test_zero_shot_logits_are_open_clips(kind, image_bias):
    theirs = open_clip_pair(kind, image_bias=image_bias)
    backbone = our_backbone(theirs, kind)
    tokens = backbone.tokenizer(prompts())
    expected = theirs.get_logits(FEATURES, tokens)[0]
    assert_near(create(backbone).head(FEATURES), expected)
    same = dict(zip(NAMES, prompts(), strict=True))  # read by encode_texts instead
    names = [same[name] for name in NAMES]
    assert_near(create(backbone, names=names, prompt="classname").head(FEATURES), expected)


@pytest.mark.parametrize("name", ["image_projection_bias", "text_projection_bias", "logit_bias"])
@torch.no_grad()
def test_each_bias_matters(name):
    theirs = open_clip_pair("siglip2", image_bias=True)
    backbone = our_backbone(theirs, "siglip2")
    setattr(backbone, name, None)
    expected = theirs.get_logits(FEATURES, backbone.tokenizer(prompts()))[0]
    with pytest.raises(AssertionError):
        assert_near(create(backbone).head(FEATURES), expected)


@torch.no_grad()
def test_image_features_in_the_joint_space_need_no_projection():
    """As behind SigLIP's pooling head."""
    theirs = open_clip_pair("siglip2")
    backbone = our_backbone(theirs, "siglip2")
    backbone.image_projection, theirs.visual = None, torch.nn.Identity()
    features = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    expected = theirs.get_logits(features, backbone.tokenizer(prompts()))[0]
    assert_near(create(backbone).head(features), expected)
    rows = theirs.encode_text(backbone.tokenizer(prompts()), normalize=True)
    weight, bias = HEAD_INITS["semantic"](backbone, NAMES, None)
    assert_near(weight, rows)
    assert bias is None


def test_projections_train_with_their_biases():
    backbone = our_backbone(open_clip_pair("siglip2", image_bias=True), "siglip2")
    model = create(backbone, methods={"proj_tuning": {}})
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = {f"{side}_projection{of}" for side in ("image", "text") for of in ("", "_bias")}
    assert trained == {f"head.{name}" for name in names}
    for name in names:
        assert torch.equal(getattr(model.head, name), getattr(backbone, name))


# ---- CoOp ----

POSITIONS = ["end", "front", "middle"]  # of the learnt tokens beside the name


@torch.no_grad()
def by_open_clip(theirs, kind, tokens, index_map, vectors):
    """open_clip's text features, unit length, with these vectors instead of embeddings."""
    text, config = theirs.text, KINDS[kind][1]
    x = text.token_embedding(tokens)
    for c, numbers in enumerate(index_map.tolist()):
        for position, number in enumerate(numbers):
            if number >= 0:
                x[c, position] = vectors[number]
    x = text.transformer(x + text.positional_embedding, attn_mask=text.attn_mask)
    x = text.ln_final(x)
    x = x[:, -1] if config.pool == "last" else x[torch.arange(len(x)), tokens.argmax(dim=1)]
    projection = text.text_projection
    return F.normalize(projection(x) if config.projection_bias else x @ projection, dim=-1)


@pytest.mark.parametrize(("kind", "position"), covering([*KINDS], POSITIONS, together=1))
@torch.no_grad()
def test_coop_logits_are_open_clips_with_these_embeddings(kind, position):
    theirs = open_clip_pair(kind)
    backbone = our_backbone(theirs, kind)
    model = create(backbone, methods={"coop": {"cls_pos": position, "ctx_len": 3}})
    tokens, index_map = coop_prompts(backbone.tokenizer, NAMES, 3, position)
    vectors = model.head.texts.context.vectors
    vectors.normal_(0, 0.05)
    texts = by_open_clip(theirs, kind, tokens, index_map, vectors)
    expected = theirs.logit_scale.exp() * F.normalize(theirs.visual(FEATURES), dim=-1) @ texts.T
    assert_near(model.head(FEATURES), expected + (theirs.logit_bias if theirs.logit_bias is not None else 0))


@pytest.mark.parametrize(
    ("kind", "length", "position"), covering(["pe", "siglip", "siglip2"], [1, 2, 5, 16], POSITIONS)
)
def test_prompts_have_the_name_and_the_learnt_tokens_in_their_places(kind, length, position):
    tokenizer = our_backbone(open_clip_pair(kind), kind).tokenizer
    tokens, index_map = coop_prompts(tokenizer, NAMES, length, position)
    before = {"end": length, "front": 0, "middle": length // 2}[position]
    for name, ids, numbers in zip(NAMES, tokens.tolist(), index_map.tolist(), strict=True):
        end = ids.index(tokenizer.frame.behind[0])
        assert ids[end + 1 :] == [tokenizer.frame.padding] * (tokenizer.context - end - 1)
        first = len(tokenizer.frame.before)
        assert ids[:first] == list(tokenizer.frame.before)
        own = [i for i in range(first, end) if numbers[i] < 0]
        assert [number for number in numbers if number >= 0] == list(range(length))
        assert numbers[first : first + before] == list(range(before))
        stop = kind == "pe"  # SigLIP's tokenizers drop it
        assert numbers[end - stop - (length - before) : end - stop] == list(range(before, length))
        text = decode(tokenizer, [ids[i] for i in own])
        assert text.replace(" ", "") == re.sub("[ _]", "", name).lower() + "." * stop


@functools.cache
def clip_tokenizer():
    return open_clip.get_tokenizer("ViT-B-16")


def decode(tokenizer, ids):
    if isinstance(tokenizer, ClipTokenizer):
        return clip_tokenizer().decode(ids)
    return Backend.from_file(str(tokenizer.find().tokenizer)).decode(ids)


class Pairs(Tokenizer):
    """Two characters per token, so that the first token of a name depends on the words before it."""

    reader = "nobody"
    frame = Frame((), (1,), 0)

    def encode(self, texts):
        return [[10 + sum(map(ord, text[i : i + 2])) for i in range(0, len(text), 2)] for text in texts]


def test_a_name_that_merges_with_the_word_before_it_is_read_alone():
    """Its own tokens stay, and the placeholder is not among them."""
    (row,), (numbers,) = (found.tolist() for found in coop_prompts(Pairs(12), ["ab"], 2, "end"))
    (alone,) = Pairs(12).encode([" ab."])
    assert row[2 : 2 + len(alone)] == alone
    assert numbers[: 2 + len(alone)] == [0, 1] + [-1] * len(alone)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_photo_context_starts_as_zero_shot(kind):
    theirs = open_clip_pair(kind)
    backbone = our_backbone(theirs, kind)
    model = create(backbone, methods={"coop": {"init": "photo"}})
    expected = theirs.get_logits(FEATURES, backbone.tokenizer(prompts()))[0]
    assert_near(model.head(FEATURES), expected)
    words = backbone.tokenizer.encode(["a photo of a."])[0]
    assert torch.equal(model.head.texts.context.vectors, theirs.text.token_embedding.weight[words])
    _, index_map = photo_prompts(backbone.tokenizer, NAMES)
    assert [sorted(n for n in row if n >= 0) for row in index_map.tolist()] == [[*range(len(words))]] * len(NAMES)
    model.head.texts.train()
    model.head.texts.context.vectors.normal_()
    assert (model.head(FEATURES) - expected).abs().amax(0).gt(1e-3).all()


def test_a_name_too_long_for_a_short_context_is_refused():
    tokenizer = our_backbone(open_clip_pair("pe"), "pe").tokenizer
    with refused(ModelError, kind="name_too_long", key="coop_ctx_len"):
        coop_prompts(tokenizer, ["cat", "very " * 30], 4, "front")
    with refused(ModelError, kind="context_too_long", key="coop_ctx_len"):
        coop_prompts(tokenizer, ["cat"], 29, "front")
    assert coop_prompts(tokenizer, ["cat"], 28, "front")[0].shape == (1, 32)


# ---- training ----


@pytest.mark.parametrize(
    "kind, method",
    [
        *(("siglip2", method) for method in (*methods_of("blocks"), *methods_of("head"))),
        *((kind, method) for kind in KINDS for method in ("lora", "pt", "coop") if kind != "siglip2"),
    ],
)
def test_a_step_decreases_the_loss(kind, method):
    of_head = {method: {}} if method in methods_of("head") else {}
    of_text = {} if of_head else {method: {}}
    model = create(our_backbone(open_clip_pair(kind), kind), None, of_head, of_text).train()
    assert isinstance(model.head.texts, CachedTextFeatures) == (method in ("clip_adapter", "proj_tuning"))
    labels = torch.arange(8) % len(NAMES)
    features = model.tower(normal_images(8, 16)).detach()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = []
    for step in range(2):
        loss = F.cross_entropy(model.head(features), labels)
        losses.append(loss.item())
        if not step:
            loss.backward()
            # so short a step that the loss decreases by a hundredth of its own size at most
            rate = 0.01 * loss.item() / sum(float(p.grad.square().sum()) for p in trained)
            with torch.no_grad():
                for parameter in trained:
                    parameter -= min(rate, 0.1) * parameter.grad
    assert losses[1] < losses[0]


# ---- semantic initialisation ----


@pytest.mark.parametrize("image_bias", [False, True])
@pytest.mark.parametrize("kind", ["clip", *WITH_BIAS])
@torch.no_grad()
def test_a_linear_head_starts_at_the_similarities(kind, image_bias):
    """Its logits are <t, f P + b> / |t P^T|; the other heads have no bias to initialise."""
    theirs = open_clip_pair(kind, image_bias=image_bias)
    backbone = our_backbone(theirs, kind)
    t = theirs.encode_text(backbone.tokenizer(prompts()), normalize=True)
    lengths = (t @ theirs.visual.weight).norm(dim=1)
    head = create(backbone, "LinearClassifier").head
    assert_near(head(FEATURES), theirs.visual(FEATURES) @ t.T / lengths)
    assert bool(head.bias.any()) == image_bias
    rows = (t @ theirs.visual.weight) / lengths[:, None]
    for other in ("CosineClassifier", "L2NormClassifier", "LayerNormClassifier"):
        assert_near(create(backbone, other).head.weight.detach(), rows)
