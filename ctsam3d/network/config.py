"""Name of a network size -> the numbers that make the network. Imports no torch."""

from dataclasses import dataclass

CUBE_VOXELS = 64  # a side of the input cube
SPACING_MM = 1.5  # of the cube's voxels, isotropic
SOFT_TISSUE_HU = (-125.0, 225.0)  # the published input window
LUNG_HU = (-1000.0, 600.0)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One size of the network. Tuples of four run from encoder stage 1 (16 voxels a side) to stage 4 (2).

    Attributes:
        size: the name of the size.
        windows_hu: (lower, upper) of each input channel.
        encoder_widths: channels of the encoder's stages.
        depths: transformer blocks of each stage.
        heads: attention heads of each stage.
        reductions: by how much keys and values are shrunk along each axis, per stage.
        embedding_widths: channels of the four embeddings the decoder gets.
        prompt_width: hidden channels between the prompt maps and the gammas and betas they become.
        upsampled_widths: channels out of the decoder's five upsamplers, deepest first.
        quality_width: hidden channels of the quality head.
        cross_patch_widths: channels of the cross-patch U-Net's levels.
        positional_features: columns of a matrix that published weights hold and nothing uses; 0 for none.
    """

    size: str
    windows_hu: tuple[tuple[float, float], ...]
    encoder_widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    reductions: tuple[int, int, int, int]
    embedding_widths: tuple[int, int, int, int]
    prompt_width: int
    upsampled_widths: tuple[int, int, int, int, int]
    quality_width: int
    cross_patch_widths: tuple[int, int, int, int, int]
    positional_features: int

    @property
    def channels(self) -> int:
        """Input channels of a cube: one for each window."""
        return len(self.windows_hu)

    @property
    def block_widths(self) -> tuple[int, int, int, int, int]:
        """Channels into the decoder's five blocks, deepest first: blocks 2 to 4 also take a skip."""
        first, second, third, fourth = self.embedding_widths
        up = self.upsampled_widths
        return (fourth, up[0] + third, up[1] + second, up[2] + first, up[3])


def _published(
    size: str,
    encoder_widths: tuple[int, int, int, int],
    depths: tuple[int, int, int, int],
    heads: tuple[int, int, int, int],
) -> NetworkConfig:
    """The sizes of arXiv 2403.15063 differ in their encoder alone."""
    return NetworkConfig(
        size=size,
        windows_hu=(SOFT_TISSUE_HU,),
        encoder_widths=encoder_widths,
        depths=depths,
        heads=heads,
        reductions=(8, 4, 2, 1),
        embedding_widths=(128, 128, 128, 256),
        prompt_width=128,
        upsampled_widths=(128, 128, 128, 128, 64),
        quality_width=256,
        cross_patch_widths=(16, 32, 64, 128, 256),
        positional_features=128,
    )


_CONFIGS = (
    NetworkConfig(
        size="nano",
        windows_hu=(SOFT_TISSUE_HU, LUNG_HU),
        encoder_widths=(32, 64, 128, 256),
        depths=(1, 2, 4, 2),
        heads=(1, 2, 4, 8),
        reductions=(8, 4, 2, 1),
        embedding_widths=(32, 32, 32, 64),
        prompt_width=32,
        upsampled_widths=(32, 32, 32, 32, 16),
        quality_width=64,
        cross_patch_widths=(8, 16, 32, 64, 128),
        positional_features=0,
    ),
    _published("restv2_tiny", (96, 192, 384, 768), (1, 2, 6, 2), (1, 2, 4, 8)),
    _published("restv2_small", (96, 192, 384, 768), (1, 2, 12, 2), (1, 2, 4, 8)),
    _published("restv2_base", (96, 192, 384, 768), (1, 3, 16, 3), (1, 2, 4, 8)),
    _published("restv2_large", (128, 256, 512, 1024), (2, 3, 16, 2), (2, 4, 8, 16)),
)

SIZES: dict[str, NetworkConfig] = {config.size: config for config in _CONFIGS}


def config_of(size: str) -> NetworkConfig:
    """Look a size up by its name.

    Raises:
        ValueError: no such size; the message lists those there are.
    """
    try:
        return SIZES[size]
    except KeyError:
        raise ValueError(f"no network of size {size!r}; sizes are {', '.join(SIZES)}") from None
