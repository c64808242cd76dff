"""The tokenizer of a tokenizer.json, as Hugging Face's `tokenizers` writes it: SigLIP's, Gemma's, T5's."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from models.backbones.tokenizer import Frame, Tokenizer, open_clip_tokenizers, spaced
from utils.errors import ModelError
from utils.files import read_json

TOKENIZER_JSON, CONFIG_JSON = "tokenizer.json", "tokenizer_config.json"
CONFIG_BYTES = 16 << 20  # of a tokenizer_config.json, which may list every added token
CLEANINGS = ("whitespace", "lower", "canonicalize")  # open_clip's
DEFAULT_CLEANING = "whitespace"


class Files(NamedTuple):
    """The local files of a tokenizer: tokenizer.json, and tokenizer_config.json if there is one."""

    tokenizer: Path
    config: Path | None


class FileTokenizer(Tokenizer):
    """Token ids as of open_clip's HFTokenizer: texts cleaned, cut to the context and padded to it.

    find: () -> the files; called at the first text. clean: a name of CLEANINGS.

    The tokens around a text are those of add_bos_token and add_eos_token in tokenizer_config.json, if set, else of the
    template in tokenizer.json. (transformers 4 does the same; version 5 reads the template alone. Files saved by either
    agree.) Raises ModelError for damaged files, and for those that pad or cut on the left, or lack a padding token or
    an end token.
    """

    reader = "the text tower"

    def __init__(self, find: Callable[[], Files], context: int, clean: str = DEFAULT_CLEANING):
        super().__init__(context)
        if clean not in CLEANINGS:
            message = f"unknown text cleaning {clean} (known: {', '.join(CLEANINGS)}); choose other weights"
            raise ModelError(message, kind="unknown_cleaning")
        self.find, self.clean = find, clean

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        clean = open_clip_tokenizers().get_clean_fn(self.clean)
        cleaned = [clean(spaced(text)) for text in texts]
        files, backend, _ = self._loaded
        with _reading(files.tokenizer):
            return [encoding.ids for encoding in backend.encode_batch(cleaned, add_special_tokens=False)]

    @property
    def frame(self) -> Frame:
        return self._loaded[2]

    @functools.cached_property
    def _loaded(self) -> tuple[Files, Any, Frame]:
        files = self.find()
        return files, *load_files(files)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns the errors of `tokenizers`, which have no class of their own, into a ModelError about the file."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # Rust's
            raise
        reason = str(error).split("\n", 1)[0]
        message = f"{path} is not a tokenizer.json, or it is damaged ({reason}); download it again"
        raise ModelError(message, kind="damaged_tokenizer", path=path) from error


def load_files(files: Files) -> tuple[Any, Frame]:
    """The tokenizers.Tokenizer of these files, which neither cuts nor pads, and the frame of its texts."""
    open_clip_tokenizers()  # switches off the threads of `tokenizers`, which do not survive a fork
    from tokenizers import Tokenizer as Backend

    with _reading(files.tokenizer):
        backend = Backend.from_file(str(files.tokenizer))
    config = _read_config(files.config)
    padding, truncation = backend.padding or {}, backend.truncation or {}
    for key, own in (("padding_side", padding), ("truncation_side", truncation)):
        # towers count positions from the left
        if str(config.get(key) or own.get("direction", "right")).lower() != "right":
            _refuse(files, f"has {key} left, and only {key} right is supported")
    backend.no_padding()
    backend.no_truncation()
    return backend, _frame(files, config, backend, padding)


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        config = read_json(path, CONFIG_BYTES)
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__}, not an object")
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read as JSON ({error}); download it again"
        raise ModelError(message, kind="damaged_tokenizer", path=path) from error
    return config


def _frame(files: Files, config: dict[str, Any], backend: Any, padding: dict[str, Any]) -> Frame:
    """The ids that the files put around a text. padding: tokenizer.json's own."""
    with _reading(files.tokenizer):
        encoding = backend.encode("a")  # a probe: its text's ids have 0 in the mask of special tokens
    special = list(encoding.special_tokens_mask)
    first = special.index(0) if 0 in special else len(special)
    last = len(special) - special[::-1].index(0) if 0 in special else first
    before, behind = tuple(encoding.ids[:first]), tuple(encoding.ids[last:])

    def named(key: str) -> tuple[int, ...]:
        """The id of a token of the configuration, () if it has none."""
        token = config.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        number = backend.token_to_id(text) if isinstance(text, str) else None
        return () if number is None else (number,)

    if "add_bos_token" in config:
        before = named("bos_token") if config["add_bos_token"] else ()
    if "add_eos_token" in config:
        behind = named("eos_token") if config["add_eos_token"] else ()
    if not behind:
        _refuse(files, "adds no end token to texts, which the text tower needs")
    pad = named("pad_token") or ((padding["pad_id"],) if padding else ())
    if not pad:
        _refuse(files, f"has no padding token, and neither has a {CONFIG_JSON} beside it")
    return Frame(before, behind, pad[0])


def _refuse(files: Files, reason: str) -> NoReturn:
    raise ModelError(
        f"the tokenizer {files.tokenizer} {reason}; choose other weights, or correct it",
        kind="unsupported_tokenizer",
        path=files.tokenizer,
    )
