"""What runs inside vLLM's own process: our audio tower, ids that may not be drawn, new weights. Only vLLM imports this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from echo_audio.engines.tower_graphs import TowerGraphs
from echo_audio.models.audio_tower import encode_clips


class Receiver:
    """Methods that vLLM's worker gets besides its own (`worker_extension_cls`).

    What is replaced on the live model, and why:

    | method | why |
    |---|---|
    | `compute_logits` | ids that may not be written are never drawn, nor counted in log-probabilities |
    | `_process_audio_input` | all 2 s blocks of all clips at once |
    | `embed_input_ids` | the stock one waits for the GPU in every step that reads audio |

    Replaced on the model itself: vLLM may have wrapped it for CUDA graphs, and the model does not see what is put on the wrapper.
    """

    model_runner: Any

    def echo_forbid(self, ids: list[int]) -> None:
        """Control ids, and ids that no text has, are never drawn: the same rule as `Thinker.logits`.

        Put on the model, not into vLLM's logits processors: the log-probabilities that vLLM returns at any temperature
        are those before its processors, and would count what can never be written.
        """
        model = self.model_runner.get_model()
        columns, compute = torch.tensor(ids, dtype=torch.long, device=self.model_runner.device), model.compute_logits

        def allowed(*args: Any, **kwargs: Any) -> Tensor | None:
            logits = compute(*args, **kwargs)
            return None if logits is None else logits.index_fill_(-1, columns, float("-inf"))

        model.compute_logits = allowed

    def echo_hear(self, parts: Sequence[str] = ("tower", "graphs", "join")) -> list[str]:
        """Our way for audio.

        Args:
            parts: what is ours: the "tower", its layers as CUDA "graphs", and how its tokens "join" those of text.
                Everything else is vLLM's own again.

        Returns:
            The methods that are replaced now. A method that this vLLM's model does not have is left alone.
        """
        model = self.model_runner.get_model()
        tower = partial(_tower_of, graphs="graphs" in parts)
        ways = {"_process_audio_input": ("tower", tower), "embed_input_ids": ("join", _join_of)}
        for name, (part, make) in ways.items():
            vars(model).pop(name, None)
            if part in parts and hasattr(model, name):
                setattr(model, name, make(model))
        return [name for name in ways if name in vars(model)]

    def echo_take_weights(self, path: str) -> int:
        """Read weights under published names into the live model, in place.

        Returns:
            How many tensors there were.
        """
        with safe_open(path, "pt") as file, torch.inference_mode():
            names = list(file.keys())
            self.model_runner.get_model().load_weights((name, file.get_tensor(name)) for name in names)
        torch.accelerator.synchronize()
        return len(names)


def _tower_of(model: Any, *, graphs: bool) -> Callable[[Any], tuple[Tensor, ...]]:
    """The audio tower. Without flash attention the stock forward loops over blocks: 9,000 launches for 27 batches of clips."""
    tower = model.audio_tower
    run_layers = TowerGraphs(tower) if graphs else None
    if run_layers is not None:
        run_layers.capture()

    def hear(audio_input: Any) -> tuple[Tensor, ...]:
        lengths = audio_input["audio_feature_lengths"].flatten().tolist()
        features, weight = audio_input["input_features"], tower.conv1.weight
        if weight.is_cuda and not features.is_cuda:
            features = features.pin_memory().to(weight.device, non_blocking=True)
        features = features.to(weight.dtype)
        return tuple(encode_clips(tower, features.split(lengths, dim=1), run_layers))

    return hear


def _join_of(model: Any) -> Callable[..., Tensor]:
    """Embeddings of text, with those of audio in their places, without a wait for the GPU.

    The stock method reads the ids back to find out whether a video's sound lies between its pictures, and then the mask's
    places wait once more: twice a step nothing is prepared while the GPU works, and then the GPU waits. Here is only audio.
    """
    language = model.get_language_model().embed_input_ids

    def embed(ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None) -> Tensor:
        if multimodal_embeddings is None or is_multimodal is None or not len(multimodal_embeddings):
            return language(ids)
        audio = torch.cat([each.flatten(0, -2) for each in multimodal_embeddings])
        places = is_multimodal.nonzero()[:, 0]
        if len(places) != len(audio):
            raise ValueError(f"{len(audio)} audio tokens for {len(places)} places")
        if audio.is_cuda and not places.is_cuda:
            places = places.pin_memory().to(audio.device, non_blocking=True)
        text = language(ids)
        return text.index_copy(0, places, audio.to(text.dtype))

    return embed
