"""Where and in which number format the models run."""

from contextlib import AbstractContextManager

import torch


def pick_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one; anything else is what torch calls it ("cpu", "cuda", "cuda:1").

    Raises ValueError for a GPU that is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device}: there is no GPU that torch can use; use cpu or auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """ "auto": float32 on the CPU; on a GPU bfloat16, or float16 on one too old for it."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to `dtype`; does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
