"""NAM's names, for programs that import them from here.

Nothing of ours does: recipes make a file of this name for classes of their own, and may replace it.
"""

from models.blocks.nam import ChannelSwish, Gated, NAMAttention, NAMChannel, NAMSpatial, PixelNorm

__all__ = ["ChannelSwish", "Gated", "NAMAttention", "NAMChannel", "NAMSpatial", "PixelNorm"]
