"""How many prompts a GRPO update needs before its gradient says more than noise does (the gradient noise scale).

The gradients of single prompts (each the whole group's) are compared with each other. The mean of their products estimates
the squared length of the true gradient, the mean of their squares that and the noise; the scale is noise over the former: the
prompts of an update in which both are equal. By parts of the model, by kind of question, and as Adam sees it (each weight's
gradient over its own size). Errors are a jackknife's. "not seen": the signal is not above twice its error, so that there is
only a bound, "at least".

    python benchmarks/gradient_noise.py configs/tiny-grpo.toml model.source=runs/sixth rollout.prompts=256

Takes the settings of `echo-audio grpo`, samples one step and trains nothing. Memory: 26 MB a prompt for the small model.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_audio.training import grpo
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.parallel import Crew
from echo_audio.training.update import learned

_BLOCK = 2**20
"""Weights whose products are taken at once."""


def gradients(run: grpo.GrpoRun, groups: list[grpo.Group], names: list[str]) -> Tensor:
    """(P, W) bfloat16: of each prompt, of all weights that learn, one after the other; zeros where all earned the same."""
    rows: list[Tensor] = []
    weights = run.policy.trained()
    for number, group in enumerate(groups):
        if group.flat:
            rows.append(torch.zeros(sum(weights[name].numel() for name in names), dtype=torch.bfloat16))
            continue
        pairs = zip(group.rollouts, group.advantages, strict=True)
        items = [learned(rollout, advantage, run.family.token_bytes) for rollout, advantage in pairs]
        run.updater.optimiser.zero_grad()
        run.updater.accumulate(items)
        parts = [w.grad if w.grad is not None else torch.zeros_like(w) for w in (weights[name] for name in names)]
        rows.append(torch.cat([part.flatten() for part in parts]).to("cpu", torch.bfloat16))
        print(f"\r{number + 1} of {len(groups)} prompts", end="", file=sys.stderr)
    print(file=sys.stderr)
    return torch.stack(rows)


def products(rows_PW: Tensor, device: torch.device, *, scaled: bool) -> NDArray[np.float64]:
    """(P, P): of every two prompts' gradients; `scaled` divides each weight's by its root mean square over the prompts."""
    total = torch.zeros(len(rows_PW), len(rows_PW), dtype=torch.float64)
    for part in rows_PW.split(_BLOCK, dim=1):
        part = part.to(device).float()
        if scaled:
            part = part / (part.square().mean(0).sqrt() + 1e-12)
        total += (part @ part.T).double().cpu()
    return total.numpy() / (rows_PW.shape[1] if scaled else 1)


def scale(products_PP: NDArray[np.float64]) -> dict[str, float]:
    """Squared length of the true gradient with its error, of a prompt's own, and the scale with its lower bound, in prompts."""

    def between(kept: NDArray[np.int64]) -> float:
        some = products_PP[np.ix_(kept, kept)]
        return float((some.sum() - np.trace(some)) / (len(kept) * (len(kept) - 1)))

    n = len(products_PP)
    everyone = np.arange(n)
    signal, own = between(everyone), float(np.trace(products_PP) / n)
    without = np.array([between(np.delete(everyone, i)) for i in everyone])
    error = float(np.sqrt((n - 1) * without.var()))
    most = signal + 1.96 * error
    found = {"prompts": n, "signal": signal, "error": error, "own": own, "at_least": (own - most) / most if most > 0 else np.inf}
    return found | {"scale": (own - signal) / signal if signal > 1.96 * error else np.inf}


def show(name: str, found: dict[str, float]) -> None:
    """One line."""
    known = f"{found['scale']:10.0f}" if np.isfinite(found["scale"]) else "   not seen"
    cosine, error = found["signal"] / found["own"], found["error"] / found["own"]
    print(f"{name:22}{found['prompts']:8}{cosine:12.4f} +- {error:.4f}{known}{found['at_least']:12.0f}")


def main(arguments: list[str]) -> int:
    """Sample, differentiate, print."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        how = (*arguments[1:], f"out={folder}/run", "loss.kl_weight=0", "rollout.resample=0", "train.mini_batch=0")
        settings = GrpoSettings.parse(Path(arguments[0]).read_text(encoding="utf-8"), how)
        run = grpo.GrpoRun(settings, Crew(), None, grpo.Watch())
        groups, _ = run.sample(0)
        run.close()
    names = sorted(run.policy.trained())
    rows_PW = gradients(run, groups, names)
    sizes = [run.policy.trained()[name].numel() for name in names]
    tower = torch.cat([torch.full((size,), "audio_tower" in name) for name, size in zip(names, sizes, strict=True)])
    kinds = [group.rollouts[0].prompt.row.kind for group in groups]
    flat = sum(group.flat for group in groups) / len(groups)
    print(f"{len(groups)} prompts of {settings.rollout.group}, {flat:.0%} of them without variance; scale in prompts")
    print(f"{'':22}{'prompts':>8}{'signal / own':>21}{'scale':>10}{'at least':>12}")
    whole = products(rows_PW, run.crew.device, scaled=False)
    found = {"all weights": scale(whole), "as Adam sees it": scale(products(rows_PW, run.crew.device, scaled=True))}
    if tower.any() and not tower.all():
        found["audio tower"] = scale(products(rows_PW[:, tower], run.crew.device, scaled=False))
        found["decoder"] = scale(products(rows_PW[:, ~tower], run.crew.device, scaled=False))
    for kind, count in sorted(Counter(kinds).items()):
        if count >= 4:
            some = np.array([i for i, name in enumerate(kinds) if name == kind])
            found[kind] = scale(whole[np.ix_(some, some)])
    for name, one in found.items():
        if one["own"] > 0:
            show(name, one)
    numbers = {name: {k: v if np.isfinite(v) else None for k, v in one.items()} for name, one in found.items()}
    print(json.dumps({"benchmark": "gradient_noise", "flat": flat, **numbers}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
