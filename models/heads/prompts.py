"""The texts of a class: one prompt, the 80 of CLIP's paper, or the user's own sentences.

default     "a photo of a NAME."
classname   "NAME"
ensemble    the 80 templates that CLIP's authors made for ImageNet (Radford et al. 2021), as open_clip lists them
descriptor  the class's sentences in a JSON file, {class name: [sentences]}
"""

from models.backbones.text_notes import text_notes
from models.backbones.tokenizer import Tokenizer, class_prompts
from utils.errors import ModelError
from utils.files import read_json
from utils.imports import submodule
from utils.text import brief

BYTES = 256 << 20  # of the largest file of sentences


def class_texts(classnames: list[str], prompt: str, file: str | None = None) -> list[list[str]]:
    """The texts of each class, at least one. Raises ModelError for a descriptor `file` that lacks a class."""
    if prompt == "classname":
        return [[name] for name in classnames]
    if prompt == "ensemble":
        templates = submodule("open_clip.zero_shot_metadata").OPENAI_IMAGENET_TEMPLATES
        return [[template(name) for template in templates] for name in classnames]
    if prompt == "descriptor":
        if file is None:
            raise ModelError("prompt descriptor needs a file of sentences; add prompt_file FILE", kind="no_prompt_file")
        sentences = _read_sentences(file)
        missing = [name for name in classnames if name not in sentences]
        if missing:
            more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
            known = ", ".join(repr(name) for name in list(sentences)[:3])
            message = (
                f"prompt_file {file} has no sentences for {', '.join(map(repr, missing[:3]))}{more} "
                f"(it has {known}, ...); its keys must be the class names"
            )
            raise ModelError(message, kind="class_without_sentences", path=file, key="prompt_file")
        return [sentences[name] for name in classnames]
    return [[text] for text in class_prompts(classnames)]


def prompt_notes(
    tokenizer: Tokenizer, classnames: list[str], prompt: str, file: str | None, renamable: bool
) -> list[str]:
    """A sentence for each fault of these texts, by text_notes. Raises ModelError, as `class_texts`."""
    texts = dict(zip(classnames, class_texts(classnames, prompt, file), strict=True))
    return text_notes(tokenizer, classnames, texts.__getitem__, renamable)


def _read_sentences(file: str) -> dict[str, list[str]]:
    try:
        content = read_json(file, BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"prompt_file {file} cannot be read as JSON ({reason}); correct or replace it"
        raise ModelError(message, kind="prompt_file_not_json", path=file, key="prompt_file") from error
    if isinstance(content, dict):
        wrong = [{name: texts} for name, texts in content.items() if not _are_sentences(texts)]
    else:
        wrong = [content]
    if wrong:
        message = (
            f"prompt_file {file} must contain {{class name: [sentences]}}, a sentence or more for each class, "
            f"found {brief(wrong[0])}"
        )
        raise ModelError(message, kind="prompt_file_form", path=file, key="prompt_file")
    return content


def _are_sentences(texts: object) -> bool:
    """Whether these are texts, not blank, without lone halves of surrogate pairs."""
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) and _is_text(text) for text in texts)


def _is_text(text: str) -> bool:
    return bool(text.strip()) and not any("\ud800" <= sign <= "\udfff" for sign in text)
