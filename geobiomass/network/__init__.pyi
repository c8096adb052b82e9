from .attention_unet import AttentionUNet, Look
from .month_attention import MonthAttention

__all__ = ["AttentionUNet", "Look", "MonthAttention"]
