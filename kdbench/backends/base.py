"""What every backend does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdbench.data.preprocessing import Size


class Backend(ABC):
    """A loaded engine with a fixed input size and a batch of one.

    ``mask`` engines take 1 x H x W x 3 uint8 RGB and return 1 x H x W uint8 class ids; ``logits`` engines take
    1 x 3 x H x W float32, normalised, and return 1 x C x H x W float32.

    Attributes:
        output: "logits" or "mask".
        size: (H, W) of the input.
        input: how ``prepare`` normalises images for ``logits``.
        details: what runs: device, provider, threads. For the results file.
    """

    output: str
    size: Size
    input: Input = IMAGENET
    details: dict[str, Any]

    @abstractmethod
    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Run one batch and return host memory; shapes as in the class's description."""

    @abstractmethod
    def close(self) -> None:
        """Free the engine."""

    def expected_input(self) -> tuple[tuple[int, ...], type]:
        """Shape and dtype of ``infer``'s argument."""
        import numpy as np

        height, width = self.size
        return ((1, height, width, 3), np.uint8) if self.output == "mask" else ((1, 3, height, width), np.float32)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """From a resized H x W x 3 image to ``infer``'s argument.

        Raises:
            BadInput: the image does not have the engine's size.
        """
        if image.shape != (*self.size, 3):
            raise BadInput(
                f"input 'image': got {'x'.join(map(str, image.shape))}, the engine was built for "
                f"{self.size[0]}x{self.size[1]}x3: resize the image, or export again with "
                f"--size {image.shape[0]}x{image.shape[1]}"
            )
        from kdbench.data.preprocessing import normalise

        return image[None] if self.output == "mask" else normalise(image[None], self.input)
