"""Text towers of each kind against open_clip's own TextTransformer with the same random weights."""

import dataclasses
import functools

import pytest
import torch
from cases import FULL
from helpers import assert_near, refused
from text_towers import KINDS, open_clip_pair, our_backbone, our_tower, tokenizer_of

from models.backbones.text import TextConfig
from models.peft import attach
from utils.errors import ModelError

TEXTS = ["a photo of a cat.", "", "golden eagle that flies " * 20, "a photo of a tree_frog."]
# for each kind, features of its description that differ from other kinds
BREAKS = {
    "clip": {"activation": "gelu", "causal": False, "pool": "last", "heads": 1, "eps": 1e-6},
    "laion": {"activation": "gelu_tanh", "causal": False, "pool": "last", "heads": 1, "eps": 1e-6},
    "pe": {"activation": "quick_gelu", "causal": False, "pool": "last", "heads": 1, "eps": 1e-6},
    "mobileclip": {"activation": "quick_gelu", "causal": True, "pool": "last", "heads": 1, "eps": 1e-6},
    "siglip": {"activation": "gelu_tanh", "causal": True, "pool": "end", "heads": 1, "eps": 1e-5},
    "siglip2": {"activation": "gelu", "causal": True, "pool": "end", "heads": 1, "eps": 1e-5},
}


def our_features(tower, tokenizer):
    tokens = tokenizer(TEXTS)
    return tower(tokens, tokenizer.ends(tokens))


@torch.no_grad()
def their_features(theirs, tokens):
    """Before the projection."""
    projection, theirs.text.text_projection = theirs.text.text_projection, None
    try:
        return theirs.text(tokens)
    finally:
        theirs.text.text_projection = projection


@functools.cache
def reference(kind):
    """open_clip's model, the tokenizer, and the features of TEXTS; tests share them, and leave them alone."""
    theirs, tokenizer = open_clip_pair(kind), tokenizer_of(KINDS[kind][1])
    return theirs, tokenizer, their_features(theirs, tokenizer(TEXTS))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_text_features_are_open_clips(kind):
    config = KINDS[kind][1]
    theirs, tokenizer, expected = reference(kind)
    assert tokenizer(TEXTS).shape == (len(TEXTS), config.context)
    assert_near(our_features(our_tower(theirs, config), tokenizer), expected)


@pytest.mark.parametrize("kind, feature", [(kind, feature) for kind in BREAKS for feature in BREAKS[kind]])
@torch.no_grad()
def test_each_feature_matters(kind, feature):
    """With another value the comparison above fails."""
    config = KINDS[kind][1]
    theirs, tokenizer, expected = reference(kind)
    broken = our_tower(theirs, dataclasses.replace(config, **{feature: BREAKS[kind][feature]}))
    with pytest.raises(AssertionError):
        assert_near(our_features(broken, tokenizer), expected)


@pytest.mark.parametrize("kind", ["pe", "siglip", "siglip2"])
@torch.no_grad()
def test_the_context_matters(kind):
    """Texts cut or padded to another length have other features."""
    config = KINDS[kind][1]
    theirs, _, expected = reference(kind)
    shorter = tokenizer_of(dataclasses.replace(config, context=config.context - 8))
    with pytest.raises(AssertionError):
        assert_near(our_features(our_tower(theirs, config), shorter), expected)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_class_names_become_open_clips_text_features(kind):
    """With projection and bias; more than one batch, cut at its longest text if later tokens have no effect."""
    theirs = open_clip_pair(kind)
    backbone = our_backbone(theirs, kind)
    lengths = []
    backbone.text.blocks[0].register_forward_hook(lambda module, args, output: lengths.append(args[0].shape[1]))
    batches = 2 if kind in ("clip", "siglip2") or FULL else 1  # one causal, one not
    names = ["cat", "fire_truck", "Mimosa pudica L.", *(f"thing {i}" for i in range(256 if batches == 2 else 9))]
    tokens = backbone.tokenizer([f"a photo of a {name.replace('_', ' ')}." for name in names])
    assert_near(backbone.encode_classnames(names), theirs.encode_text(tokens, normalize=True))
    causal = KINDS[kind][1].causal
    assert len(lengths) == batches
    assert all((length < backbone.tokenizer.context) == causal for length in lengths)


def test_a_config_is_clips_by_default():
    assert TextConfig(128, 2) == TextConfig(128, 2, 77, 49408, eps=1e-5, causal=True, pool="end")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_prompt_tokens_leave_the_pooling_right(kind):
    """Prompt tuning is open_clip's tower over the longer sequence, pooled at the same text token."""
    config = KINDS[kind][1]
    theirs, tokenizer = open_clip_pair(kind), tokenizer_of(config)
    tokens = tokenizer(TEXTS)
    tower = our_tower(theirs, config)
    attach(tower, {"pt": {"len": 3, "layers": [0]}}, num_classes=4)
    found = tower(tokens, tokenizer.ends(tokens))

    text = theirs.text
    x = text.token_embedding(tokens) + text.positional_embedding
    x = torch.cat([x[:, :1], tower.blocks[0].prompt.tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    length = x.shape[1]
    mask = torch.full((length, length), -torch.inf).triu(1) if config.causal else None
    x = text.ln_final(text.transformer(x, attn_mask=mask))
    # the end of CLIP's texts has the largest id
    position = torch.full((len(x),), length - 1) if config.pool == "last" else tokens.argmax(dim=1) + 3
    assert_near(found, x[torch.arange(len(x)), position])


def test_a_tokenizer_of_other_weights_is_refused():
    backbone = our_backbone(open_clip_pair("siglip2"), "siglip2")
    backbone.text.token_embedding = torch.nn.Embedding(300, 128)
    with refused(ModelError, kind="tokenizer_of_other_weights"):
        backbone.encode_classnames(["golden eagle"])


def test_words_outside_a_reduced_vocabulary_are_refused():
    """Padding is not read, whatever its id."""
    backbone = our_backbone(open_clip_pair("siglip2"), "siglip2")
    with torch.no_grad():
        backbone.text.token_embedding.weight[backbone.tokenizer.frame.padding] = 0
    backbone.encode_classnames(["golden eagle"])
    with torch.no_grad():
        backbone.text.token_embedding.weight[backbone.tokenizer.encode(["golden eagle"])[0][-1]] = 0
    with refused(ModelError, kind="unknown_word"):
        backbone.encode_classnames(["cat", "golden eagle"])
