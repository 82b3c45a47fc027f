"""A folder like the published Qwen2.5-Omni, with its three models at tiny sizes, stored under the published key names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

SPEAKERS = b"not a pickle: whoever opens this file fails"


def tiny_omni_config(thinker: dict[str, Any]) -> dict[str, Any]:
    """The config.json of the whole model around a thinker's."""
    ids = {k: v for k, v in thinker.items() if k.endswith(("_token_index", "_start_token_id", "_end_token_id"))}
    width = thinker["text_config"]["hidden_size"]
    talker = {
        "model_type": "qwen2_5_omni_talker", "vocab_size": 64, "hidden_size": 16, "embedding_size": width,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]},
        "tts_codec_start_token_id": 60, "tts_codec_end_token_id": 61, "tts_codec_pad_token_id": 62, "tts_codec_mask_token_id": 63,
        "pad_token_id": 0,
    } | ids  # fmt: skip
    dit = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8, "ff_mult": 2, "emb_dim": 8,
        "num_embeds": 64, "mel_dim": 8, "enc_dim": 8, "enc_emb_dim": 4, "enc_channels": [8, 8, 8, 8, 24],
        "enc_kernel_sizes": [5, 3, 3, 3, 1], "enc_dilations": [1, 2, 3, 4, 1], "enc_attention_channels": 4,
        "enc_res2net_scale": 2, "enc_se_channels": 4, "look_ahead_layers": [0], "look_backward_layers": [1],
    }  # fmt: skip
    bigvgan = {
        "mel_dim": 8, "upsample_initial_channel": 16, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
        "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4],
    }  # fmt: skip
    return {
        "model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "enable_audio_output": True, "enable_talker": True,
        "thinker_config": thinker, "talker_config": talker,
        "token2wav_config": {"model_type": "qwen2_5_omni_token2wav", "dit_config": dit, "bigvgan_config": bigvgan},
    }  # fmt: skip


def write_omni(folder: Path, thinker_folder: Path, n_shards: int = 3) -> dict[str, Tensor]:
    """Write the folder around a thinker's; its weights in bfloat16, untied, talker and token2wav in the last shards.

    Returns:
        All tensors by published name.
    """
    folder.mkdir()
    for path in thinker_folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, folder)
    thinker = json.loads((thinker_folder / "config.json").read_text())
    thinker["tie_word_embeddings"] = thinker["text_config"]["tie_word_embeddings"] = False
    config = tiny_omni_config(thinker)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "spk_dict.pt").write_bytes(SPEAKERS)
    own = load_file(thinker_folder / "model.safetensors")
    own["lm_head.weight"] = own["model.embed_tokens.weight"].flip(0).contiguous()
    tensors = {f"thinker.{name}": tensor.to(torch.bfloat16) for name, tensor in own.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig.from_dict(config))
        for name, tensor in whole.state_dict().items():
            if name.startswith(("talker.", "token2wav.")):
                tensors[name] = tensor.to(torch.bfloat16) if name.startswith("talker.") else tensor.clone()
    names = [*sorted(n for n in tensors if n.startswith("thinker.")), *sorted(n for n in tensors if not n.startswith("thinker."))]
    cuts = [0, len(own) // 2, len(own) + 2, len(names)][: n_shards + 1]
    where: dict[str, str] = {}
    for number in range(n_shards):
        shard = f"model-{number + 1:05d}-of-{n_shards:05d}.safetensors"
        some = names[cuts[number] : cuts[number + 1]]
        save_file({name: tensors[name].contiguous() for name in some}, folder / shard, metadata={"format": "pt"})
        where |= dict.fromkeys(some, shard)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors
