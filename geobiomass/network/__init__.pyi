from .attention_unet import AttentionUNet
from .look import Look
from .month_attention import MonthAttention

__all__ = ["AttentionUNet", "Look", "MonthAttention"]
