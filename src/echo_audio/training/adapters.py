"""Low-rank adapters on the decoder, in place: attach before training, merge into the weights after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from echo_audio.models.thinker import Thinker, published_parts

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def attach(thinker: Thinker, rank: int, alpha: float) -> None:
    """Freeze the model and put adapters on every projection of the decoder."""
    from peft import LoraConfig, inject_adapter_in_model

    inside = next(name for name, module in thinker.model.named_modules() if module is thinker.decoder)
    targets = rf"{inside.replace('.', chr(92) + '.')}\.layers\..*\.({'|'.join(_PROJECTIONS)})"
    thinker.model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=round(alpha), lora_dropout=0.0, target_modules=targets)
    inject_adapter_in_model(config, thinker.model)


def merge(thinker: Thinker) -> None:
    """Fold adapters into the weights and take them away; nothing happens without any."""
    from peft.tuners.lora import LoraLayer

    found = [(name, module) for name, module in thinker.model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in found:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(thinker.model.get_submodule(parent), child, module.get_base_layer())


def learned_weights(thinker: Thinker) -> Iterator[tuple[str, Tensor]]:
    """What training has changed, under published names, adapters folded in; the thinker stays as it is.

    Folding is done in float32, one weight at a time, on the weights' own device.
    """
    from peft.tuners.lora import LoraLayer

    for prefix, part in published_parts(thinker):
        for name, module in part.named_modules():
            if isinstance(module, LoraLayer):
                layer: Any = module
                weight = layer.get_base_layer().weight.detach()
                delta = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
                yield f"{prefix}{name}.weight", (weight.float() + delta).to(weight.dtype)
        for name, weight in part.named_parameters():
            if weight.requires_grad and "lora_" not in name:
                yield prefix + name, weight.detach()


def widen(thinker: Thinker) -> None:
    """Adapters in float32, whatever the weights they sit on: small steps are lost in half precision."""
    for name, weight in thinker.model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()


@contextmanager
def switched_off(thinker: Thinker) -> Iterator[None]:
    """The model as it was before adapters were attached."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in thinker.model.modules() if isinstance(module, LoraLayer)]
    kept = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
    try:
        yield
    finally:
        for layer, scaling in zip(layers, kept, strict=True):
            layer.scaling.update(scaling)
