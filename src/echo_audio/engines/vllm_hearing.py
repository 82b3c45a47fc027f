"""How audio comes to vLLM's model, in vLLM's own process: what is replaced there on live objects, and why.

| part | object | method | why |
|---|---|---|---|
| tower, graphs | model | `_process_audio_input` | all 2 s blocks of all clips at once, their layers as CUDA graphs |
| join | model | `embed_input_ids` | the stock one waits for the GPU in every step that reads audio |
| upload | encoder, second runner | `execute_mm_encoder` | the stock one joins all clips in fresh host memory |
| positions | rotary state, second runner | `init_prefill_positions` | audio and text count alike: nothing to send |
| rows | requests' states, second runner | `add_request` | two launches for each request, of which nothing is read |

Replaced on the model itself: vLLM may have wrapped it for CUDA graphs, and the model does not see what is put on the wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from echo_audio.engines.staging import Staging
from echo_audio.engines.tower_graphs import TowerGraphs
from echo_audio.models.audio_tower import RunLayers, encode_clips

PARTS = ("tower", "graphs", "join", "upload", "positions", "rows")
_FEATURES = "input_audio_features"


@dataclass(frozen=True, slots=True)
class Way:
    """A method that may be ours.

    Args:
        target: the object that has it; None where this runner has no such object.
        name: of the method.
        part: whose it is.
        make: makes ours.
    """

    target: Any
    name: str
    part: str
    make: Callable[[], Callable[..., Any]]


def replace(model_runner: Any, parts: Sequence[str] = PARTS) -> list[str]:
    """Make these parts ours, and all others vLLM's own again.

    Returns:
        The methods that are replaced now. What this vLLM does not have is left alone; an engine without CUDA graphs gets none.
    """
    model = model_runner.get_model()
    state = getattr(model_runner, "model_state", None)
    encoder, rope = getattr(state, "encoder_runner", None), getattr(state, "rope_state", None)
    states = getattr(model_runner, "req_states", None)
    graphs = "graphs" in parts and not model_runner.model_config.enforce_eager
    run_layers = TowerGraphs(model.audio_tower) if graphs else None
    if run_layers is not None:
        run_layers.capture()
    ways = (
        Way(model, "_process_audio_input", "tower", partial(tower_of, model, run_layers)),
        Way(model, "embed_input_ids", "join", partial(join_of, model)),
        Way(encoder, "execute_mm_encoder", "upload", partial(upload_of, model, encoder, run_layers)),
        Way(rope, "init_prefill_positions", "positions", partial(positions_of, rope)),
        Way(states, "add_request", "rows", partial(rows_of, states)),
    )
    done = list[str]()
    for way in ways:
        if hasattr(way.target, way.name):
            vars(way.target).pop(way.name, None)
            if way.part in parts:
                setattr(way.target, way.name, way.make())
                done.append(way.name)
    return done


def tower_of(model: Any, run_layers: RunLayers | None) -> Callable[[Any], tuple[Tensor, ...]]:
    """The audio tower. Without flash attention the stock forward loops over blocks: 9,000 launches for 27 batches of clips."""
    tower = model.audio_tower

    def hear(audio_input: Any) -> tuple[Tensor, ...]:
        lengths = audio_input["audio_feature_lengths"].flatten().tolist()
        features, weight = audio_input["input_features"], tower.conv1.weight
        if weight.is_cuda and not features.is_cuda:
            features = features.pin_memory().to(weight.device, non_blocking=True)
        features = features.to(weight.dtype)
        return tuple(_tokens_of(tower, features.split(lengths, dim=1), run_layers))

    return hear


def upload_of(model: Any, encoder: Any, run_layers: RunLayers | None) -> Callable[[Any], list[Tensor]]:
    """From clips as they came to their tokens: features into pinned memory, from there to the GPU, through the tower."""
    tower, stock = model.audio_tower, type(encoder).execute_mm_encoder
    staging = Staging(tower.conv1.weight.device, tower.conv1.weight.dtype)

    @torch.inference_mode()
    def hear(items: Sequence[tuple[str, Any]]) -> list[Tensor]:
        if any(modality != "audio" or _FEATURES not in item for modality, item in items):
            return stock(encoder, items)
        return _tokens_of(tower, staging.upload([item[_FEATURES].data for _, item in items]), run_layers)

    return hear


def _tokens_of(tower: Any, features: Sequence[Tensor], run_layers: RunLayers | None) -> list[Tensor]:
    """Tokens of clips, each in memory of its own: vLLM keeps and drops them one by one, and a view would keep them all."""
    return [tokens.clone() for tokens in encode_clips(tower, features, run_layers)]


def join_of(model: Any) -> Callable[..., Tensor]:
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


def positions_of(rope: Any) -> Callable[..., None]:
    """Positions of a prompt that holds text and audio: 0, 1, 2 ... on all three axes, which every row holds from now on.

    The stock method makes the same numbers, for each prompt three times as Python integers, and sends them. Where a
    prompt holds anything else it is asked, and asked again for whoever comes into that row.
    """
    stock, table = type(rope).init_prefill_positions, rope.prefill_positions.gpu
    table.copy_(torch.arange(table.shape[1], dtype=table.dtype, device=table.device).expand_as(table))
    touched = set[int]()

    def begin(req_idx: int, model: Any, prefill_token_ids: list[int], mm_features: list[Any]) -> None:
        if all(feature.modality == "audio" for feature in mm_features) and req_idx not in touched:
            rope.prefill_delta.np[req_idx] = 0
            return
        touched.add(req_idx)
        stock(rope, req_idx, model, prefill_token_ids, mm_features)

    return begin


def rows_of(states: Any) -> Callable[..., None]:
    """A request's row, set up without a launch.

    The stock method writes to the GPU what the row drew last and that it guesses nothing. A row that has a prompt left to
    read looks at neither, and every request that comes here has: its last token is read again however much is cached. So
    it writes them into tensors that nobody reads.
    """
    stock = type(states).add_request
    aside = {name: torch.zeros_like(getattr(states, name), device="cpu") for name in ("last_sampled_tokens", "draft_tokens")}

    def add(*, all_token_ids: list[int], num_computed_tokens: int, **more: Any) -> None:
        given = {"all_token_ids": all_token_ids, "num_computed_tokens": num_computed_tokens, **more}
        if states.num_speculative_steps or num_computed_tokens >= len(all_token_ids):
            stock(states, **given)
            return
        kept = {name: getattr(states, name) for name in aside}
        vars(states).update(aside)
        try:
            stock(states, **given)
        finally:
            vars(states).update(kept)

    return add
