"""Gradients added up over ranks in fewer bytes: half precision, int8, top-k and PowerSGD."""

from distgrad.distributed.compression.elementwise import BF16, FP16, Elementwise, Int8
from distgrad.distributed.compression.powersgd import PowerSGD
from distgrad.distributed.compression.protocol import Compression, Shares
from distgrad.distributed.compression.topk import TopK

__all__ = [
    "BF16",
    "FP16",
    "Compression",
    "Elementwise",
    "Int8",
    "PowerSGD",
    "Shares",
    "TopK",
]
