"""Images below a folder that nobody has labelled yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from vision_bench.data.dataset import FileImages, VisionData, folder_title
from vision_bench.data.image_folders import image_files, no_images
from vision_bench.data.images import to_tensor

if TYPE_CHECKING:
    from vision_bench.models.model import Preprocessing


class UnlabelledImages(VisionData):
    """Images below a folder, as `(pixels,)`.

    Args:
        root: The folder.
        classes: Names of the classes that a model tells apart.
        preprocessing: Size and normalisation that the model expects.
        on_error: "skip" leaves unusable images out and counts them, "raise" stops at the first.

    Raises:
        FileNotFoundError: If there is no image.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        *,
        preprocessing: Preprocessing,
        on_error: str = "skip",
    ) -> None:
        names = image_files(Path(root))
        if not names:
            raise no_images(Path(root))
        self.images = FileImages(Path(root), names)
        super().__init__(
            f"folder-{Path(root).resolve().name}",
            names,
            classes,
            preprocessing=preprocessing,
            unreadable={},
            on_error=on_error,
        )
        self.title = folder_title(root, None)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 height width"]]:
        return (to_tensor(self.images.read(index), self.preprocessing),)

    def _contents(self) -> Any:
        return self.images.digests()
