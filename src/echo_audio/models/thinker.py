"""The thinker of Qwen2.5-Omni with its weights: load it, encode clips, run the decoder.

transformers renamed the inside of this model between 5.17 and 5.23; `Thinker` is the one place that knows where the
parts are, so the rest of Echo works with both.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.utils import logging as transformers_logging

from echo_audio.errors import ModelError, TrainingError
from echo_audio.listen import Encoded
from echo_audio.models import folders
from echo_audio.models.audio_tower import encode_clips
from echo_audio.models.logmel import logmel
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.models.rows import Attend, Parts, run_layers

_UNLOADABLE = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError, RuntimeError, SafetensorError,
)  # fmt: skip
"""What transformers raises for files that are missing or damaged, and for sizes no model can have."""


class Thinker(nn.Module):
    """Audio tower and decoder.

    Args:
        model: the transformers model (possibly wrapped by peft, whose base it must be).
        family: tokens of the same folder.

    Raises:
        ModelError: the tokenizer has ids that the model has no embedding for.
    """

    model: Any  # torch types every submodule as Tensor | Module; what is inside is checked by the parity tests
    allowed: Tensor

    def __init__(self, model: Qwen2_5OmniThinkerForConditionalGeneration, family: Qwen25Omni) -> None:
        super().__init__()
        self.model = model
        self.family = family
        n_ids, vocabulary = len(family.token_bytes), self.model.config.text_config.vocab_size
        if n_ids > vocabulary:
            raise ModelError(f"the tokenizer has {n_ids} ids and the model {vocabulary}: they are not of one model")
        allowed = torch.ones(vocabulary, dtype=torch.bool)
        allowed[n_ids:] = False
        allowed[list(family.never_sampled)] = False
        self.register_buffer("allowed", allowed, persistent=False)

    @classmethod
    def load(
        cls, source: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Thinker:
        """Load weights from a folder (thinker alone, or a published omni folder) or hub id. safetensors only.

        Raises:
            ModelError: not of the family, or weights missing.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape, and ours change all the time
        folder = folders.resolve(source)
        family = Qwen25Omni.load(folder)
        config = _config(folder)
        load = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained
        try:
            with _quiet():  # the talker's weights are unexpected here, and that is expected
                how = {"use_safetensors": True, "output_loading_info": True, "attn_implementation": "sdpa"}
                loaded: Any = load(folder, config=config, dtype=dtype, **how)
        except _UNLOADABLE as error:
            raise ModelError(f"the weights in {folder} do not load ({error}); download the model again") from None
        model, report = loaded
        if report["missing_keys"]:
            some = ", ".join(sorted(report["missing_keys"])[:3])
            raise ModelError(f"{folder} lacks {len(report['missing_keys'])} weights (e.g. {some}); is a shard missing?")
        return cls(model, family).to(device).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.allowed.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.model.lm_head.weight.dtype

    @property
    def _inner(self) -> Any:
        """What holds the audio tower: a level of its own since transformers 5.2x."""
        children = dict(self.model.named_children())
        return self.model if "audio_tower" in children else children["model"]

    @property
    def audio_tower(self) -> Any:
        """The audio encoder."""
        return self._inner.audio_tower

    @property
    def decoder(self) -> Any:
        """The text model."""
        children = dict(self._inner.named_children())
        return children["language_model"] if "language_model" in children else children["model"]

    def encode_features(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Audio tokens (n_tokens, hidden) of log-mel features (128, n_frames) on the model's device."""
        return encode_clips(self.audio_tower, features)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings, (..., hidden)."""
        return self.decoder.embed_tokens(ids)

    def decode(self, embeds_BTH: Tensor, positions_BT: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the decoder on whole sequences.

        Args:
            embeds_BTH: input embeddings.
            positions_BT: position of each token; the three rope axes are equal without images.
            mask: boolean (batch, 1, T, n_keys), True where attention is allowed; None means causal.

        Returns:
            Hidden states (batch, T, hidden).
        """
        out = self.decoder(
            inputs_embeds=embeds_BTH,
            position_ids=positions_BT[None].expand(3, -1, -1),
            attention_mask={"full_attention": mask},
            use_cache=False,
        )
        return out.last_hidden_state

    def decode_rows(self, embeds_NH: Tensor, attend: Attend, parts: Parts | None = None) -> Tensor:
        """Run the decoder on positions of any rows of a cache, (N, hidden); see `run_layers`."""
        return run_layers(self.decoder, embeds_NH, attend, parts)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits with what a policy may not write at -inf."""
        return self.model.lm_head(hidden).float().masked_fill(~self.allowed, float("-inf"))

    def embed_encoded(self, encoded: Encoded) -> Tensor:
        """Input embeddings (n, hidden) of an encoded transcript, its audio in place."""
        embeds = self.embed(torch.tensor(encoded.ids, device=self.device))
        if encoded.clips:
            features = logmel([clip.recording.samples for clip in encoded.clips], self.device)
            for clip, tokens in zip(encoded.clips, self.encode_features(features), strict=True):
                embeds = embeds.index_copy(
                    0, torch.arange(clip.position, clip.position + clip.n_tokens, device=self.device), tokens
                )
        return embeds

    def score(self, encoded: Encoded) -> Tensor:
        """Log-probability of every id given all before it, by one full forward: (n,), 0 for the first."""
        embeds = self.embed_encoded(encoded)[None]
        positions = torch.arange(embeds.shape[1], device=self.device)[None]
        logprobs = self.logits(self.decode(embeds, positions)[0, :-1]).log_softmax(-1)
        targets = torch.tensor(encoded.ids[1:], device=self.device)
        return torch.cat([logprobs.new_zeros(1), logprobs.gather(1, targets[:, None])[:, 0]])


def _config(folder: Path) -> Qwen2_5OmniThinkerConfig:
    """The folder's configuration, as transformers understands it."""
    values = folders.thinker_config(folder)
    try:
        config = Qwen2_5OmniThinkerConfig.from_dict(values)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, StrictDataclassError) as error:
        why = " ".join(str(error).split())
        raise ModelError(f"{folder / 'config.json'} is damaged ({why}); download the model again") from None
    config.vision_start_token_id = values.get("vision_start_token_id", 151_652)
    return config


_PUBLISHED = {"audio_tower": "audio_tower.", "visual": "visual.", "language_model": "model.", "model": "model."}
"""What published checkpoints call the parts that transformers' modules have under these names."""

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_SIDE_FILES = ("*.json", "merges.txt", "*.jinja", "spk_dict.pt")


def published_parts(thinker: Thinker) -> list[tuple[str, nn.Module]]:
    """The parts of a thinker, each with what published checkpoints put before the names of its weights."""
    parts = [(_PUBLISHED[name], child) for name, child in thinker._inner.named_children() if name in _PUBLISHED]
    if thinker.model.lm_head.weight is not thinker.decoder.embed_tokens.weight:
        parts.append(("lm_head.", thinker.model.lm_head))
    return parts


def published_weights(thinker: Thinker, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights on the CPU under the names of the published thinkers, whatever transformers calls them.

    Raises:
        TrainingError: a weight is NaN or infinite, or adapters are not merged.
    """
    weights: dict[str, Tensor] = {}
    for prefix, part in published_parts(thinker):
        for name, tensor in part.state_dict().items():
            if "lora_" in name:
                raise TrainingError("the adapters are not merged into the weights; call merge_and_unload first")
            saved = tensor.detach().to("cpu", dtype).contiguous()
            if not saved.isfinite().all():
                raise TrainingError(f"{prefix}{name} holds NaN or infinity; nothing was saved, resume from before")
            weights[prefix + name] = saved
    return weights


def save_weights(thinker: Thinker, path: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """One safetensors file under published names; a file that was there stays whole until the new one is.

    Raises:
        TrainingError: see `published_weights`; or the disk refuses.
    """
    weights = published_weights(thinker, dtype)
    part = path.with_name(f".{path.name}.part")
    try:
        save_file(weights, part, metadata={"format": "pt"})
        part.chmod(0o644)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"could not write {path} ({error}); is the disk full?") from None
    finally:
        part.unlink(missing_ok=True)


def save_folder(thinker: Thinker, folder: Path, source: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """A complete model folder: weights, the thinker's config, and the small files of the folder it was trained from.

    Args:
        thinker: what to save, adapters merged.
        folder: made if missing; other files in it stay.
        source: where tokenizer, processor and the like are copied from; may be a full omni folder.
        dtype: of the saved weights.

    Raises:
        TrainingError: a weight is NaN or infinite, or the disk refuses. `model.safetensors` is then what it was before.
    """
    config = folders.thinker_config(source) | {"dtype": str(dtype).removeprefix("torch.")}
    config |= {"architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted({path for pattern in _SIDE_FILES for path in source.glob(pattern)}):
            if not path.name.endswith(_WEIGHTS) and path.name != "config.json" and folder.resolve() != source.resolve():
                shutil.copyfile(path, folder / path.name)
        (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"could not write {folder} ({error}); is the disk full?") from None
    save_weights(thinker, folder / "model.safetensors", dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and remarks of transformers."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
