"""The network: one encoder for all months, attention over months, a U-Net decoder.

After the design that won the BioMassters competition (DrivenData, 2023). Pure torch,
and nothing else of ours: tensors in, tensors out; band statistics live in buffers, so
a network carries its own scaling.
"""

from geobiomass.network.attention_unet import AttentionUNet, Look
from geobiomass.network.month_attention import MonthAttention

__all__ = ["AttentionUNet", "Look", "MonthAttention"]
