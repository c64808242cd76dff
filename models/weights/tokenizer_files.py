"""The tokenizer of a text tower: its files are beside the weights, or in a repository of the hub."""

import functools
from pathlib import Path

from models.backbones.file_tokenizer import CONFIG_JSON, DEFAULT_CLEANING, TOKENIZER_JSON, Files, FileTokenizer
from models.backbones.text import TextConfig
from models.backbones.tokenizer import ClipTokenizer, Tokenizer
from models.weights import hub
from utils.errors import ModelError
from utils.text import shortened

# files of other kinds of tokenizers, in repositories without a tokenizer.json
OTHER_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.txt", "vocab.json")


def build_tokenizer(text: TextConfig, weights: Path) -> Tokenizer:
    """The tokenizer of the text tower `text`. Nothing is read or fetched before the first text.

    weights: the weight file, beside which the tokenizer's files may be. Raises ModelError, mostly at the first text.
    """
    if not text.tokenizer:
        return ClipTokenizer(text.context, text.clean or "lower")
    find = functools.partial(find_files, text.tokenizer, weights.parent)
    return FileTokenizer(find, text.context, text.clean or DEFAULT_CLEANING)


def find_files(repository: str, folder: Path) -> Files:
    """tokenizer.json and tokenizer_config.json, each from `folder` if it is there, else from the hub.

    Raises ModelError for a repository without tokenizer.json, and if the hub does not answer.
    """
    tokenizer, config = (_find(repository, folder, file) for file in (TOKENIZER_JSON, CONFIG_JSON))
    if tokenizer is None:
        found = next((file for file in OTHER_FILES if _find(repository, folder, file)), "")
        kind = f", and its {found} is a tokenizer of a kind that is not read here" if found else ""
        message = (
            f"the texts' tokenizer {shortened(repository)} has no {TOKENIZER_JSON}{kind}; "
            f"choose other weights, or put a {TOKENIZER_JSON} into {folder}"
        )
        raise ModelError(message, kind="unsupported_tokenizer", path=folder / TOKENIZER_JSON)
    return Files(tokenizer, config)


def _find(repository: str, folder: Path, file: str) -> Path | None:
    """The local path of a file in `folder`, or of the repository's; None if neither has it. Raises ModelError."""
    if (folder / file).is_file():
        return folder / file
    try:
        return hub.fetch_file(repository, file)
    except ModelError:
        raise
    except Exception as error:  # the client raises errors of many types: offline, proxy, disk
        reason = shortened(str(error).strip().split("\n", 1)[0], 300)
        message = (
            f"{file} of the texts' tokenizer {shortened(repository)} could not be downloaded "
            f"({type(error).__name__}: {reason}); fetch it on another machine and put it into {folder}"
        )
        raise ModelError(message, kind="download_failed", path=folder / file) from error
