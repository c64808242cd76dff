"""Fixtures of the tests of models."""

import pytest

from models.backbones.families import open_clip, timm_modules
from models.weights import descriptions


@pytest.fixture(scope="session", autouse=True)
def descriptions_without_first_values():
    """timm's modules that only describe an architecture draw no first values, which takes two thirds of their time."""

    def build(name, kinds, options):
        from full_size import without_first_values  # imports timm, as the module does

        with without_first_values():
            return timm_modules.build_module(name, kinds, options)

    with pytest.MonkeyPatch.context() as patch:
        for module in (descriptions, open_clip):
            patch.setattr(module, "build_module", build)
        yield
