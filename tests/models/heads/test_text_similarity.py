"""CLIP's own head against its formula and open_clip's logits: fixed texts, trainable texts, learnt contexts."""

import functools

import helpers
import open_clip
import pytest
import torch
from helpers import CLIP_RESOLUTION, TEXT_DIM, normal_images, randomize, refused
from oracles import bottleneck_formula

from models import Model, peft
from models.backbones.tokenizer import tokenize
from models.heads.text_similarity import TextSimilarity
from models.heads.texts import CachedTextFeatures, TextEncoderFeatures
from models.peft.coop import coop_prompts, photo_prompts
from utils.config.schema import methods_of
from utils.errors import ModelError

NAMES = ["cat", "fire_truck", "Mimosa pudica L.", "x"]


@pytest.fixture
def clip_pair(tmp_path):
    return helpers.clip_pair(tmp_path)


def create(backbone, names=NAMES, text_methods=None, seed=0, **methods):
    """A model with CLIP's own head and these methods in it."""
    return Model.create(backbone, names, None, methods, text_methods, seed=seed)


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# ---- the formula ----


def unit(row):
    return row / row.square().sum().sqrt()


def adapter_formula(h, p, side):
    """h + Up(ReLU(Down(LN(h))))"""
    if f"{side}_adapter.norm.weight" not in p:
        return h
    return h + bottleneck_formula(h, p, f"{side}_adapter")


@pytest.mark.parametrize("case", range(24))
def test_head_is_its_formula_in_value_and_gradient(case, device):
    tune, width, projected = case % 2 == 1, (None, 3)[case // 2 % 2], case % 3 > 0
    generator = torch.Generator().manual_seed(case)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dim, text_dim, joint, scale = 5, 4, 6, normal(1)[0]
    p = normal(dim, joint) if projected else None
    biases = {}
    if case >= 12:
        biases = {"text_projection_bias": normal(joint), "logit_bias": normal(1)[0]}
        biases |= {"image_projection_bias": normal(joint)} if projected else {}
    head = TextSimilarity(CachedTextFeatures(normal(3, text_dim)), p, normal(text_dim, joint), scale, **biases)
    tuned = {"proj_tuning": {}} if tune else {}
    peft.attach_to_head(head, tuned | ({"clip_adapter": {"dim": width}} if width else {}))
    head = head.double()
    randomize(head, seed=case)
    features = normal(2, dim if projected else joint).to(device).requires_grad_()
    logits, direction = head.to(device)(features), normal(2, 3)
    inputs = [features, *head.parameters()]
    gradients = [g.cpu() for g in torch.autograd.grad((logits * direction.to(device)).sum(), inputs)]

    head, logits, features = head.cpu(), logits.cpu(), features.cpu()
    f = features.detach().clone().requires_grad_()
    tensors = {name: value.detach().clone().requires_grad_() for name, value in head.named_parameters()}
    everything = dict(head.named_buffers()) | tensors
    rows = []
    for feature in f:
        image = feature @ everything["image_projection"] if projected else feature
        image = image + everything.get("image_projection_bias", 0)
        image = unit(adapter_formula(image, everything, "image"))
        texts = [
            g @ everything["text_projection"] + everything.get("text_projection_bias", 0) for g in head.texts.features
        ]
        texts = [unit(adapter_formula(text, everything, "text")) for text in texts]
        added = biases.get("logit_bias", 0)
        rows.append(torch.stack([scale.exp() * (image * text).sum() + added for text in texts]))
    wanted = torch.autograd.grad((torch.stack(rows) * direction).sum(), [f, *tensors.values()])

    tuned_biases = tune * sum("projection" in name for name in biases)
    assert len(tensors) == (2 if tune and projected else tune) + tuned_biases + (12 if width else 0)
    assert torch.allclose(logits, torch.stack(rows), rtol=1e-10, atol=1e-10)
    for found, right in zip(gradients, wanted, strict=True):
        assert torch.allclose(found, right, rtol=1e-8, atol=1e-10)
    assert all(right.any() for right in wanted[:1])


# ---- zero-shot ----


@functools.cache
def clip_tokenizer():
    return open_clip.get_tokenizer("ViT-B-16")


def open_clip_logits(theirs, images, prompts):
    """open_clip's own, from its encode_image and encode_text."""
    tokens = clip_tokenizer()(prompts)
    texts = theirs.encode_text(tokens, normalize=True)
    return theirs.logit_scale.exp() * theirs.encode_image(images, normalize=True) @ texts.T


def our_logits(model, images):
    return model.head(model.tower(images))


def photo(name):
    return f"a photo of a {name.replace('_', ' ')}."


@pytest.mark.parametrize(
    "changed", [{}, {"clip_adapter": {}}, {"proj_tuning": {}}, {"text_methods": {"lora": {"dim": 4}}}]
)
@torch.no_grad()
def test_fresh_head_is_open_clips_zero_shot(changed, clip_pair, device):
    """Without methods, or with methods that are the identity when initialised."""
    theirs, ours = clip_pair
    images = normal_images(5, CLIP_RESOLUTION)
    model = create(ours.to(device), **changed).to(device).eval()
    expected = open_clip_logits(theirs, images, [photo(name) for name in NAMES])
    assert torch.allclose(our_logits(model, images.to(device)).cpu(), expected, rtol=1e-4, atol=1e-4)
    assert bool(trained_names(model)) == bool(changed)


@torch.no_grad()
def test_zero_shot_model_is_open_clip_on_normalised_images(clip_pair, device):
    theirs, ours = clip_pair
    ours.mean, ours.std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    images = torch.randint(0, 256, (3, 3, CLIP_RESOLUTION, CLIP_RESOLUTION), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    expected = open_clip_logits(theirs, (images / 255 - mean) / std, [photo(name) for name in NAMES])
    model = create(ours.to(device)).to(device)
    assert torch.allclose(model(images.to(device)).cpu(), expected, rtol=1e-4, atol=1e-4)


# ---- learnt contexts ----

PROMPTS = {
    "end": "one small drawing showing {}.",
    "front": "{} one small drawing showing.",
    "middle": "one small {} drawing showing.",
}


@pytest.mark.parametrize("position", PROMPTS)
@torch.no_grad()
def test_coop_logits_are_open_clips(position, clip_pair):
    """With the embeddings of four words in the learnt places, the texts are those sentences."""
    theirs, ours = clip_pair
    model = create(ours, coop={"cls_pos": position})
    words = tokenize(["one small drawing showing"])[0, 1:5]
    model.head.texts.context.vectors.copy_(theirs.token_embedding.weight[words])
    images = normal_images(5, CLIP_RESOLUTION)
    prompts = [PROMPTS[position].format(name.replace("_", " ")) for name in NAMES]
    assert torch.allclose(our_logits(model, images), open_clip_logits(theirs, images, prompts), rtol=1e-4, atol=1e-4)
    assert trained_names(model) == {"head.texts.context.vectors"}


@torch.no_grad()
def test_photo_context_starts_as_zero_shot(clip_pair):
    """Also of a name that ends in a full stop, whose last two stops are one token, which stays."""
    theirs, ours = clip_pair
    model = create(ours, coop={"init": "photo"})
    images = normal_images(5, CLIP_RESOLUTION)
    expected = open_clip_logits(theirs, images, [photo(name) for name in NAMES])
    assert torch.allclose(our_logits(model, images), expected, rtol=1e-4, atol=1e-4)
    vectors = model.head.texts.context.vectors
    words = tokenize(["a photo of a."])[0, 1:6]
    assert torch.equal(vectors, theirs.token_embedding.weight[words])
    _, which = photo_prompts(tokenize, NAMES)
    assert [(row == 4).sum().item() for row in which] == [1, 1, 0, 1]
    vectors[4] += torch.randn(TEXT_DIM)  # the full stop is learnt, too
    moved = (our_logits(model.train(), images) - expected).abs().amax(0)
    assert (moved > 1e-3).tolist() == [True, True, False, True]


@pytest.mark.parametrize("length", [1, 2, 5, 16])
@pytest.mark.parametrize("position", PROMPTS)
def test_placeholders_are_found(position, length):
    """As many as requested, in order, for any position of the name, and even if the name is itself an x."""
    tokens, which = coop_prompts(tokenize, NAMES, length, position)
    before = {"end": length, "front": 0, "middle": length // 2}[position]
    for name, ids, numbers in zip(NAMES, tokens.tolist(), which.tolist(), strict=True):
        words = tokenize([name])[0].tolist()
        words = words[1 : words.index(max(words))]
        places = [number for number in numbers if number >= 0]
        assert places == list(range(length))
        assert numbers[0] == -1
        assert numbers[1 : 1 + before] == list(range(before))
        assert ids[1 + before : 1 + before + len(words) - 1] == words[:-1]  # a last "." may join the prompt's
        end = ids.index(max(ids))
        assert max((i for i, number in enumerate(numbers) if number >= 0), default=0) <= end - 2


def test_random_context_is_small_and_by_the_seed(clip_pair):
    vectors = create(clip_pair[1], coop={"ctx_len": 16}).head.texts.context.vectors
    again = create(clip_pair[1], coop={"ctx_len": 16}).head.texts.context.vectors
    other = create(clip_pair[1], coop={"ctx_len": 16}, seed=1).head.texts.context.vectors
    assert vectors.shape == (16, TEXT_DIM)
    assert vectors.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(vectors, again)
    assert not torch.equal(vectors, other)


@pytest.mark.parametrize("position", ["front", "middle"])
def test_a_name_too_long_for_the_context_is_refused(position):
    long = "very " * 80 + "long"
    with refused(ModelError, kind="name_too_long", key="coop_ctx_len"):
        coop_prompts(tokenize, ["cat", long], 4, position)
    assert coop_prompts(tokenize, ["cat", long], 4, "end")[0].shape == (
        2,
        77,
    )  # there the name is cut, as by CLIP itself


@pytest.mark.parametrize("position", PROMPTS)
@pytest.mark.parametrize("length", [74, 75, 100])
def test_a_context_too_long_for_any_name_is_refused(position, length):
    with refused(ModelError, kind="context_too_long", key="coop_ctx_len"):
        coop_prompts(tokenize, ["cat"], length, position)
    assert coop_prompts(tokenize, ["cat"], 73, position)[0].shape == (1, 77)


def test_context_is_not_asked_for_its_placeholders_words(clip_pair):
    """A reduced vocabulary must contain the words of the names, but not placeholders."""
    _, ours = clip_pair
    known = {*tokenize(["cat dog a photo of a."])[0].tolist()} - {0}
    for row in range(len(ours.text.token_embedding.weight)):
        if row not in known:
            ours.text.token_embedding.weight.data[row] = 0
    assert isinstance(create(ours, ["cat", "dog"], coop={}).head.texts, TextEncoderFeatures)
    with refused(ModelError, kind="unknown_word"):
        create(ours, ["cat", "truck"], coop={})
    with refused(ModelError, kind="unknown_word"):
        create(ours, ["cat", "truck"])


# ---- trainable parameters ----


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, set()),
        ({"proj_tuning": {}}, {"head.image_projection", "head.text_projection"}),
        (
            {"clip_adapter": {}},
            {
                f"head.{side}_adapter.{layer}.{kind}"
                for side in ("image", "text")
                for layer in ("norm", "down", "up")
                for kind in ("weight", "bias")
            },
        ),
        ({"coop": {}}, {"head.texts.context.vectors"}),
        ({"text_methods": {"bitfit": {"layers": 0}}}, set()),
    ],
)
def test_exactly_the_intended_tensors_train(changed, expected, clip_pair):
    model = create(clip_pair[1], **changed)
    assert trained_names(model) == expected
    assert isinstance(model.head.texts, TextEncoderFeatures if "coop" in changed else CachedTextFeatures)


@pytest.mark.parametrize("method", methods_of("blocks"))
def test_text_tower_trains_by_every_method(method, clip_pair):
    """Only trainable parameters get gradients, and a step changes the class texts of the next one."""
    model = create(clip_pair[1], text_methods={method: {}}).train()
    names = trained_names(model)
    assert names
    assert all(name.startswith("head.texts.tower.blocks.") for name in names)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    before = model.head.texts().detach()
    for step in range(2):  # with a zero Up or B only the second step moves the rest
        our_logits(model, normal_images(4, CLIP_RESOLUTION, seed=step)).square().mean().backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == names
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(model.head.texts(), before)


def test_texts_are_encoded_once_in_testing_and_anew_after_training(clip_pair):
    model = create(clip_pair[1], coop={})
    calls = []
    model.head.texts.tower.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    images = normal_images(2, CLIP_RESOLUTION)
    with torch.inference_mode():
        model.eval()
        before = our_logits(model, images)
        our_logits(model, images)
    assert len(calls) == 1
    model.train()
    for _ in range(2):
        our_logits(model, images).sum().backward()
    assert len(calls) == 3
    with torch.no_grad():
        model.head.texts.context.vectors.normal_()
    with torch.inference_mode():
        assert not torch.equal(our_logits(model.eval(), images), before)
    assert len(calls) == 4


def test_fixed_texts_leave_the_text_tower_behind(clip_pair):
    model = create(clip_pair[1], clip_adapter={})
    assert not any(name.startswith("head.texts") for name, _ in model.named_parameters())


def test_many_classes_are_encoded_in_parts(clip_pair):
    names = [f"thing {i}" for i in range(300)]
    texts = create(clip_pair[1], names, coop={}).head.texts
    whole, sizes = texts(), []
    texts.tower.blocks[0].register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    assert torch.equal(texts(), whole)
    assert sizes == [256, 44]


def test_texts_without_a_text_tower_are_refused(tmp_path):
    vit = helpers.vit_pair(tmp_path)[1]
    for changed in ({}, {"coop": {}}, {"text_methods": {"lora": {}}}):
        with refused(ModelError, kind="no_text_tower"):
            create(vit, **changed)
