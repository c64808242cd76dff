"""Files that may turn out to be unreadable: a few bad ones do not stop the others."""

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.decoding.problems import ImageError
from datasets.images import ImagePaths, no_report
from datasets.loading.crops import Crop, Sample
from utils.errors import DataError
from utils.processes import Advance


class NewPictures(ImagePaths):
    """Image files; the crops of a file that cannot be read are black, and `problems` has the reason.

    Raises DataError for a path that no file can have.
    """

    def __init__(self, paths: Sequence[str], exif_orientation: bool = True, bit_depth: int | None = None):
        super().__init__(paths, exif_orientation, bit_depth)
        if len(self) != len(paths):
            raise DataError("a path contains a zero byte, so it is not a file's; leave it out", kind="zero_byte")
        # flags of unreadable files, in memory that forked workers share
        self.unreadable = np.frombuffer(mmap.mmap(-1, max(len(paths), 1)), np.uint8)

    def read_crops(
        self, samples: Sequence[Sample], crop: Crop, out: Tensor | None = None, advance: Advance = no_report
    ) -> Tensor:
        crops = torch.empty(len(samples), *crop.shape, dtype=torch.uint8) if out is None else out
        for row, sample in enumerate(samples):
            try:
                super().read_crops([sample], crop, crops[row : row + 1], advance)
            except ImageError:
                crops[row] = 0
                self.unreadable[sample[1]] = 1
                advance()
        return crops

    def problem(self, index: int) -> str | None:
        """The reason why a file could not be read, without its path; None if it could. Known once it has been read."""
        if not self.unreadable[index]:
            return None
        try:
            self.read(index)
        except ImageError as error:
            return error.reason
        return "could not be read, and now can; try again"

    def problems(self) -> dict[int, str]:
        """The reasons why files could not be read, by index; known once all of them have been read."""
        return {index: self.problem(index) or "" for index in np.flatnonzero(self.unreadable).tolist()}
