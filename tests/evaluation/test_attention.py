"""Attention on audio against attention computed by hand, on the shipped model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import noise

from echo_audio.audio import Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import DataError
from echo_audio.evaluation.attention import Tally, audio_positions, masses_of
from echo_audio.listen import Encoded
from echo_audio.models import folders
from echo_audio.models.attention import attention_mass
from echo_audio.models.thinker import Thinker
from echo_audio.transcript import Author, Mode, Played, Question, Stop, Transcript, Written

pytestmark = pytest.mark.skipif(
    not (folders.tiny_folder() / "model.safetensors").is_file(), reason="the shipped model is not here"
)


@dataclass
class Case:
    thinker: Thinker
    transcript: Transcript
    encoded: Encoded


@pytest.fixture(scope="module")
def case() -> Case:
    """A reasoning of 21 sampled tokens with one segment heard again in its midst."""
    thinker = Thinker.load(folders.TINY)
    recording = noise(4.0)
    question = Question("What is heard?", recording.id, recording.duration_s, ("a dog", "a bell"))
    ids = thinker.family.text_ids("<think>The sound comes early <seg>0.5, 1.7</seg> and it is a bell.</think>")
    assert len(ids) > 20
    first, second = (Written("x", Author.MODEL, part) for part in (ids[:12], ids[12:21]))
    begun = Transcript.open(question, thinker.family.prompt(question, Mode.INTERLEAVED)).say(first)
    transcript = begun.hear(Segment(0.5, 1.7)).say(second).finish(Stop.TURN_LIMIT)
    return Case(thinker, transcript, TranscriptEncoder(thinker.family, recording).encode(transcript))


def turned(x_HND: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary positions 0, 1, 2, ...: the pair (i, i + D/2) is turned by position / theta^(2i/D)."""
    n, d = x_HND.shape[1:]
    angles = torch.arange(n)[:, None] / theta ** (torch.arange(0, d, 2) / d)
    low, high = x_HND[..., : d // 2], x_HND[..., d // 2 :]
    return torch.cat([low * angles.cos() - high * angles.sin(), high * angles.cos() + low * angles.sin()], -1)


@torch.inference_mode()
def by_hand(case: Case) -> list[torch.Tensor]:
    """Attention weights (heads, n, n) of each layer, from the queries and keys of an ordinary forward."""
    decoder = case.thinker.decoder
    got: dict[tuple[int, str], torch.Tensor] = {}
    hooks = []
    for i, layer in enumerate(decoder.layers):
        for name in ("q_proj", "k_proj"):
            keep = lambda module, inputs, out, key=(i, name): got.__setitem__(key, out[0].float())  # noqa: E731
            hooks.append(getattr(layer.self_attn, name).register_forward_hook(keep))
    embeds = case.thinker.embed_encoded(case.encoded)[None]
    n = embeds.shape[1]
    case.thinker.decode(embeds, torch.arange(n)[None])
    for hook in hooks:
        hook.remove()
    config = decoder.config
    d, theta = config.hidden_size // config.num_attention_heads, config.rope_parameters["rope_theta"]
    out = []
    for i in range(config.num_hidden_layers):
        q, k = (turned(got[i, name].view(n, -1, d).transpose(0, 1), theta) for name in ("q_proj", "k_proj"))
        k = torch.stack([k[head * k.shape[0] // q.shape[0]] for head in range(q.shape[0])])
        scores = q @ k.transpose(1, 2) / math.sqrt(d)
        out.append(scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf")).softmax(-1))
    return out


@pytest.mark.parametrize("max_weights", [1, 1 << 12, 1 << 25])
def test_masses_equal_attention_computed_by_hand(case, max_weights):
    groups = torch.from_numpy(audio_positions(case.transcript, case.encoded)).float()
    got = attention_mass(case.thinker, case.encoded, groups, max_weights=max_weights)
    want = torch.stack([(weights @ groups).mean(0) for weights in by_hand(case)])
    assert got.shape == want.shape and float((got - want).abs().max()) < 1e-5
    assert float(want[..., 1].max()) > 0.01


def test_tokens_are_looked_at_where_they_were_chosen(case):
    masses = masses_of(case.thinker, case.transcript, case.encoded)
    assert masses is not None
    weights = torch.stack(by_hand(case)).mean((0, 1)).numpy()
    first, again = case.encoded.clips
    begins = np.flatnonzero(case.encoded.sampled)
    assert len(masses.by_token) == len(begins) == 21
    for t, position in enumerate(begins):
        row = weights[position - 1]
        assert masses.by_token[t, 0] == pytest.approx(row[first.position : first.position + first.n_tokens].sum(), abs=1e-5)
        assert masses.by_token[t, 1] == pytest.approx(row[again.position : again.position + again.n_tokens].sum(), abs=1e-5)
        n_again = again.n_tokens if t >= 12 else 0
        assert masses.uniform[t].tolist() == pytest.approx([first.n_tokens / position, n_again / position])
    assert masses.after.tolist() == [False] * 12 + [True] * 9 and not masses.by_token[:12, 1].any()
    assert masses.by_layer.mean(0) == pytest.approx(masses.by_token.mean(0))


def test_a_model_that_prefers_nothing_attends_evenly(case, monkeypatch):
    for layer in case.thinker.decoder.layers:
        for tensor in (layer.self_attn.q_proj.weight, layer.self_attn.q_proj.bias):
            if tensor is not None:
                monkeypatch.setattr(tensor, "data", torch.zeros_like(tensor))
    masses = masses_of(case.thinker, case.transcript, case.encoded)
    assert masses is not None and masses.by_token == pytest.approx(masses.uniform, abs=1e-6)


def test_the_model_is_as_before(case):
    before = case.thinker.score(case.encoded)
    attention_mass(case.thinker, case.encoded, torch.ones(len(case.encoded.ids), 1))
    assert case.thinker.decoder.config._attn_implementation == "sdpa"
    assert torch.equal(case.thinker.score(case.encoded), before)


def test_the_groups_of_everything_get_all_of_it(case):
    mass = attention_mass(case.thinker, case.encoded, torch.ones(len(case.encoded.ids), 1))
    assert mass.flatten().tolist() == pytest.approx([1.0] * mass.numel(), abs=1e-5)


def test_what_was_withheld_is_nowhere(case):
    recording = noise(4.0)
    opened = Transcript.open(case.transcript.question, "?", played=Played.WITHHELD)
    told = opened.hear(Segment(0.5, 1.7)).say(Written("x", Author.MODEL, (5, 6))).finish(Stop.TURN_LIMIT)
    encoded = TranscriptEncoder(case.thinker.family, recording).encode(told)
    assert audio_positions(told, encoded).sum(0).tolist() == [encoded.clips[0].n_tokens, 0]


def test_the_numbers_of_two_transcripts(case):
    masses = masses_of(case.thinker, case.transcript, case.encoded)
    assert masses is not None
    tally = Tally()
    tally.add(masses)
    tally.add(masses)
    got = tally.to_json()
    assert (got["n"], got["n_tokens"]) == (2, 42)
    for i, name in enumerate(("first", "again")):
        assert got[name]["value"] == pytest.approx(masses.by_token[:, i].mean(), abs=1e-4)
        assert got["after_listening_again"][name]["value"] == pytest.approx(masses.by_token[12:, i].mean(), abs=1e-4)
        assert got["by_tenth"][name][0] == pytest.approx(masses.by_token[:3, i].mean(), abs=1e-4)  # tokens 0, 1, 2 of 21
    assert got["audio"]["value"] == pytest.approx(masses.by_token.sum(1).mean(), abs=1e-4)
    with pytest.raises(DataError, match="no transcript"):
        Tally().to_json()
