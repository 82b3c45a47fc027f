"""For the two environments beside Echo's: PyPI's torchvision is built for CUDA and finds no kernels beside a CPU's torch.

Nothing here detects boxes; that the two operators are declared is all that its import asks for.
"""

import torch

torchvision_ops = torch.library.Library("torchvision", "DEF")  # kept: declarations go when it does
for name in ("nms", "qnms"):
    torchvision_ops.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
