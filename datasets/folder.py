"""Your own pictures: ROOT/train/CLASS/* and ROOT/test/CLASS/* (or val); the folders' names are the class names."""

from pathlib import Path

import numpy as np

from datasets.base import DataError, DataSet, ImageList

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def build(name: str, root: str | None) -> DataSet:
    """The data set below `root`, classes sorted by name. Raises DataError."""
    if root is None:
        raise DataError(
            "-d folder needs your pictures: add root FOLDER, with FOLDER/train/CLASS/ and FOLDER/test/CLASS/"
        )
    top = Path(root)
    train = _classes(top / "train", top)
    test = _classes(top / "val" if (top / "val").is_dir() and not (top / "test").is_dir() else top / "test", top)
    classnames = sorted(train)
    if len(classnames) < 2:
        raise DataError(f"{top}/train has {len(classnames)} class folders with pictures; at least two are needed")
    unknown = sorted(test.keys() - train.keys())
    if unknown:
        raise DataError(f"{top} tests class '{unknown[0]}', which has no training pictures; add some or remove it")
    return DataSet(name, classnames, _list(train, classnames), _list(test, classnames), root=str(top))


def _classes(split: Path, top: Path) -> dict[str, list[str]]:
    """The pictures of each class folder in `split`, sorted."""
    if not split.is_dir():
        found = sorted(path.name for path in top.iterdir())[:5] if top.is_dir() else []
        state = "is a file" if top.exists() else "does not exist"
        beside = f"beside it: {', '.join(found) or 'nothing'}" if top.is_dir() else f"root itself {state}"
        raise DataError(
            f"{split} is not a folder ({beside}); root must hold train/CLASS/ and test/CLASS/ (or val/CLASS/)"
        )
    folders = {folder.name: folder for folder in split.glob("[!.]*") if folder.is_dir()}
    pictures = {
        name: sorted(str(path) for path in folder.glob("[!.]*") if path.suffix.lower() in EXTENSIONS)
        for name, folder in folders.items()
    }
    pictures = {name: paths for name, paths in pictures.items() if paths}
    if not pictures:
        raise DataError(f"{split} holds no pictures in class folders; expected {split}/CLASS/*.jpg (or png, webp, ...)")
    return pictures


def _list(pictures: dict[str, list[str]], classnames: list[str]) -> ImageList:
    labelled = [(path, label) for label, name in enumerate(classnames) for path in pictures.get(name, [])]
    return ImageList([path for path, _ in labelled], np.array([label for _, label in labelled], np.int64))
