"""Refuses features of published architectures that are not supported, by their names."""

from utils.errors import ModelError


def require(condition: bool, feature: str, key: str | None = None) -> None:
    """Raises ModelError with the feature, in words, unless the condition holds. key: of the description."""
    if not condition:
        message = f"it has {feature}, which is not supported here; choose another model"
        raise ModelError(message, kind="unsupported_feature", key=key)
