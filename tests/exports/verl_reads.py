"""Run inside verl's environment: load exported rows with its own dataset class, processor and length filter; print as JSON."""

from __future__ import annotations

import json
import sys

from omegaconf import OmegaConf
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, Qwen2_5OmniProcessor
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.utils.tokenizer import build_multimodal_processor_inputs

model, rows, cache = sys.argv[1:]
processor, tokenizer = Qwen2_5OmniProcessor.from_pretrained(model), AutoTokenizer.from_pretrained(model)
settings = {"max_prompt_length": 2048, "filter_overlong_prompts": True, "filter_overlong_prompts_workers": 1, "cache_dir": cache}
config = OmegaConf.create(settings)
dataset = RLHFDataset([rows], tokenizer, config, processor=processor)
batch = next(iter(DataLoader(dataset, batch_size=2, collate_fn=collate_fn)))
messages = dataset[0]["raw_prompt"]
text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
_, _, audios = RLHFDataset._process_multi_modal_info(messages, 14, config)
inputs = build_multimodal_processor_inputs(processor, text=[text], audio=audios)
told = {
    "n": len(dataset),
    "truths": [one["ground_truth"] for one in batch["reward_model"]],
    "choices": batch["extra_info"][0]["choices"],
    "ids": inputs["input_ids"][0].tolist(),
    "n_frames": int(inputs["feature_attention_mask"].sum()),
}
sys.stdout.write("\n" + json.dumps(told) + "\n")
