"""Network: one encoder for all months, attention over months, a U-Net decoder.

After the network that won the BioMassters competition (DrivenData, 2023). It uses
tensors only. Band statistics are buffers, so that a network includes its own scaling.
Names are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
