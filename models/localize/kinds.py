"""The kinds of pooling. Free of torch, so that reading settings is quick."""

from typing import Literal

PoolingKind = Literal["gap", "gmp", "softmax", "topk", "gap+gmp+focal"]
