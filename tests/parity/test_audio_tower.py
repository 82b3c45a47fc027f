"""The audio tower on all blocks at once against transformers' own forward, and the whole model against its own."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ask, noise, opened
from torch import Tensor

from echo_audio.audio import Recording, Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines import staging
from echo_audio.engines.tower_graphs import SIZES, TowerGraphs
from echo_audio.engines.vllm_hearing import PARTS
from echo_audio.engines.vllm_worker import Receiver
from echo_audio.listen import Encoded
from echo_audio.models.audio_tower import Features, encode_clips, encode_features
from echo_audio.models.logmel import logmel, logmel_padded
from echo_audio.models.thinker import Thinker
from echo_audio.transcript import Author, Mode, Transcript, Written

N_FRAMES = [3, 4, 5, 7, 99, 150, 199, 200, 201, 202, 203, 399, 400, 401, 555, 1000, 1003]


def features_of(n_frames: int) -> Tensor:
    (features,) = logmel([noise(n_frames / 100, seed=n_frames).samples])
    assert features.shape == (128, n_frames)
    return features


def stock_tower(thinker: Thinker, features: list[Tensor]) -> list[Tensor]:
    """transformers' forward over clips that are packed one after another."""
    tower = thinker.audio_tower
    lengths = torch.tensor([clip.shape[1] for clip in features])
    after_conv, tokens = tower._get_feat_extract_output_lengths(lengths)
    out = tower(torch.cat(features, dim=1), feature_lens=lengths, aftercnn_lens=after_conv)
    return list(out.last_hidden_state.split(tokens.tolist()))


@pytest.mark.parametrize("n_frames", N_FRAMES)
@torch.inference_mode()
def test_one_clip(thinker: Thinker, n_frames: int) -> None:
    features = features_of(n_frames)
    (ours,), (expected,) = thinker.encode_features([features]), stock_tower(thinker, [features])
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_many_clips_at_once(thinker: Thinker) -> None:
    features = [features_of(n) for n in N_FRAMES]
    ours, expected = thinker.encode_features(features), stock_tower(thinker, features)
    alone = [thinker.encode_features([clip])[0] for clip in features]
    for a, b, c in zip(ours, expected, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a, c, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("n_frames", [[40], [99, 200], [1000, 555, 3], N_FRAMES * 3])
@pytest.mark.parametrize("valid", [False, True])
def test_layers_at_fixed_addresses(thinker: Thinker, n_frames: list[int], valid: bool) -> None:
    """As CUDA graphs want them: padded to one of a few sizes, and what an earlier call left there changes nothing."""
    at_once = TowerGraphs(thinker.audio_tower)
    at_once.hidden_CLD.fill_(torch.nan)
    at_once.valid_CL.fill_(valid)
    features = [features_of(n) for n in n_frames]
    for a, b in zip(encode_clips(thinker.audio_tower, features, at_once), thinker.encode_features(features), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; run on a GPU: pytest -m gpu")
@torch.inference_mode()
def test_layers_as_cuda_graphs(thinker: Thinker) -> None:
    tower = deepcopy(thinker.audio_tower).cuda()
    at_once = TowerGraphs(tower)
    at_once.capture()
    for n_frames in ([40], [1000, 555, 3], [99, 200], N_FRAMES * 3):
        features = [features_of(n).cuda() for n in n_frames]
        for a, b in zip(encode_clips(tower, features, at_once), encode_clips(tower, features), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert at_once.graphs.n_captured == len(SIZES)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_what_is_uploaded_outlives_the_memory_it_went_through(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More uploads than there are buffers, one of them larger than a buffer; nothing is waited for in between."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here; run on a GPU: pytest -m gpu")
    monkeypatch.setattr(staging, "_SIZE", 128 * 300)
    sender = staging.Staging(torch.device(device), torch.bfloat16)
    clips = [[torch.randn(128, 10 * n), torch.randn(128, 7)] for n in (*range(1, 10), 40, *range(1, 10))]
    for given, there in zip(clips, [sender.upload(each) for each in clips], strict=True):
        for before, after in zip(given, there, strict=True):
            assert after.device.type == device and torch.equal(after.cpu(), before.to(torch.bfloat16))


class Wrapped:
    """vLLM's model inside its wrapper for CUDA graphs: attributes are read through it, but what is put on it stays there."""

    def __init__(self, model: Any) -> None:
        self.runnable = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runnable, name)


class Model:
    """As much of vLLM's model for this family as is used."""

    def __init__(self, thinker: Thinker) -> None:
        self.thinker, self.audio_tower = thinker, thinker.audio_tower

    def get_language_model(self) -> Any:
        return SimpleNamespace(embed_input_ids=self.thinker.embed)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return hidden.clone()

    def _process_audio_input(self, audio_input: Any) -> str:
        return "stock"

    def embed_input_ids(self, ids: Tensor, embeddings: Any = None, *, is_multimodal: Any = None) -> str:
        return "stock"

    def embed_multimodal(self, **audio_input: Any) -> Any:
        return self._process_audio_input(audio_input)


def receiver_of(thinker: Thinker) -> tuple[Receiver, Any]:
    model = Model(thinker)
    receiver = Receiver()
    receiver.model_runner = SimpleNamespace(model=Wrapped(model), get_model=lambda: model, device=torch.device("cpu"))
    receiver.model_runner.model_config = SimpleNamespace(enforce_eager=False, quantization=None)
    return receiver, receiver.model_runner.model


@torch.inference_mode()
def test_in_vllm_s_process_the_same_tower_hears_all_clips_at_once(thinker: Thinker) -> None:
    features = [features_of(n) for n in N_FRAMES]
    receiver, seen = receiver_of(thinker)
    assert receiver.echo_hear() == ["_process_audio_input", "embed_input_ids"]
    lengths = torch.tensor([[clip.shape[1]] for clip in features])
    heard = seen.embed_multimodal(input_features=torch.cat(features, dim=1), audio_feature_lengths=lengths)
    for a, b in zip(heard, stock_tower(thinker, features), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert a.untyped_storage().nbytes() == a.nbytes  # dropped by vLLM, it is gone
    assert receiver.echo_hear([]) == [] and seen.embed_multimodal() == seen.embed_input_ids(None) == "stock"


def test_an_engine_without_cuda_graphs_gets_none_of_ours(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, _ = receiver_of(thinker)
    captured = list[int]()
    monkeypatch.setattr(TowerGraphs, "capture", lambda _: captured.append(1))
    for eager, expected in ((True, 0), (False, 1)):
        receiver.model_runner.model_config.enforce_eager = eager
        assert receiver.echo_hear() == ["_process_audio_input", "embed_input_ids"] and len(captured) == expected


@torch.inference_mode()
def test_in_vllm_s_process_audio_stands_where_its_places_are(thinker: Thinker) -> None:
    receiver, seen = receiver_of(thinker)
    receiver.echo_hear(["join"])
    ids, mask = torch.tensor([5, 9, 9, 6, 9]), torch.tensor([False, True, True, False, True])
    audio = [torch.full((2, thinker.embed(ids).shape[1]), 7.0), torch.full((1, thinker.embed(ids).shape[1]), 8.0)]
    joined = seen.embed_input_ids(ids, audio, is_multimodal=mask)
    torch.testing.assert_close(joined[mask], torch.cat(audio))
    torch.testing.assert_close(joined[~mask], thinker.embed(ids[~mask]))
    for nothing in ({}, {"multimodal_embeddings": [], "is_multimodal": torch.zeros(5, dtype=torch.bool)}):
        torch.testing.assert_close(seen.embed_input_ids(ids, **nothing), thinker.embed(ids))
    with pytest.raises(ValueError, match="2 audio tokens for 3 places"):
        seen.embed_input_ids(ids, audio[:1], is_multimodal=mask)


def test_in_vllm_s_process_forbidden_ids_have_no_mass(thinker: Thinker) -> None:
    receiver, seen = receiver_of(thinker)
    receiver.echo_forbid([1, 3])
    assert seen.compute_logits(torch.zeros(2, 4)).isinf().tolist() == [[False, True, False, True]] * 2


def test_in_vllm_s_process_weights_in_fewer_bits_are_not_replaced(thinker: Thinker) -> None:
    receiver, _ = receiver_of(thinker)
    receiver.model_runner.model_config.quantization = "fp8"
    with pytest.raises(ValueError, match="load the engine without quantization=fp8"):
        receiver.echo_take_weights("nowhere")


@torch.inference_mode()
def test_one_clip_in_a_padded_group_ends_where_it_ends(thinker: Thinker) -> None:
    """The log-mel of padded samples has frames behind the clip's end, which must not be heard."""
    recording = noise(6.6, 3)
    padded = logmel_padded(torch.from_numpy(recording.samples.copy())[None])
    assert padded.shape[2] > 660
    tokens, _ = encode_features(thinker.audio_tower, [Features(padded, [660])])
    torch.testing.assert_close(tokens, thinker.encode_features(logmel([recording.samples]))[0], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_padded_groups_equal_clips_one_by_one(thinker: Thinker) -> None:
    """How training feeds the tower: a padded batch, frames behind a clip's end holding anything."""
    recordings = [noise(seconds, seed) for seed, seconds in enumerate((0.5, 2.0, 4.01, 3.333))]
    batch = torch.zeros(len(recordings), max(r.n_samples for r in recordings))
    for row, recording in zip(batch, recordings, strict=True):
        row[: recording.n_samples] = torch.from_numpy(recording.samples.copy())
    n_frames = [-(-r.n_samples // 160) for r in recordings]
    padded = logmel_padded(batch)
    for row, n in zip(padded, n_frames, strict=True):
        row[:, n:] = 7.0
    tokens, counts = encode_features(
        thinker.audio_tower, [Features(padded[:2], n_frames[:2]), Features(padded[2:], n_frames[2:])]
    )
    expected = thinker.encode_features(logmel([r.samples for r in recordings]))
    assert counts == [len(e) for e in expected]
    torch.testing.assert_close(tokens, torch.cat(expected), atol=1e-5, rtol=1e-5)


def stock_logits(thinker: Thinker, encoded: Encoded) -> Tensor:
    """The published way: ids, padded features and their mask into the transformers model."""
    features = logmel([clip.recording.samples for clip in encoded.clips])
    longest = max(clip.shape[1] for clip in features)
    padded, mask = torch.zeros(len(features), 128, longest), torch.zeros(len(features), longest, dtype=torch.long)
    for i, clip in enumerate(features):
        padded[i, :, : clip.shape[1]], mask[i, : clip.shape[1]] = clip, 1
    ids = torch.tensor([encoded.ids])
    out = thinker.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=padded,
        feature_attention_mask=mask,
        use_cache=False,
    )
    return out.logits[0]


def conversation(thinker: Thinker, recording: Recording) -> Encoded:
    """A prompt, and a reasoning that listens twice."""
    family = thinker.family
    transcript = Transcript.open(ask(recording), family.prompt(ask(recording), Mode.INTERLEAVED))
    for text, segment in (
        ("<think>a bell <seg>0.5, 1.5</seg>", Segment(0.5, 1.5)),
        (" <seg>0.0, 0.77</seg>", Segment(0, 0.77)),
    ):
        transcript = transcript.say(Written(text, Author.MODEL)).hear(segment)
    transcript = transcript.say(Written(" so.</think>\n<answer>a bell</answer>", Author.MODEL))
    return TranscriptEncoder(family, recording).encode(transcript)


@pytest.mark.parametrize("duration_s", [1.6, 2.0, 5.37])
@torch.inference_mode()
def test_the_whole_model_equals_transformers_own_forward(thinker: Thinker, duration_s: float) -> None:
    encoded = conversation(thinker, noise(duration_s))
    expected = stock_logits(thinker, encoded)
    embeds = thinker.embed_encoded(encoded)[None]
    ours = thinker.logits(thinker.decode(embeds, torch.arange(len(encoded.ids))[None]))[0]
    allowed = thinker.allowed
    torch.testing.assert_close(ours[:, allowed], expected[:, allowed], atol=1e-4, rtol=1e-4)
    assert (ours[:, ~allowed] == -torch.inf).all()
    without = embeds.clone()
    without[0, encoded.clips[1].position] = 0
    changed = thinker.logits(thinker.decode(without, torch.arange(len(encoded.ids))[None]))[0]
    assert float((changed[-1] - ours[-1])[allowed].abs().max()) > 1e-3  # one audio token less would be noticed


def test_positions_are_sequential_by_the_models_own_rule(thinker: Thinker) -> None:
    encoded = conversation(thinker, noise(5.37))
    ids = torch.tensor([encoded.ids])
    n_frames = torch.tensor([-(-clip.recording.n_samples // 160) for clip in encoded.clips])
    positions, deltas = thinker.model.get_rope_index(ids, None, None, torch.ones_like(ids), False, n_frames)
    expected = torch.arange(len(encoded.ids)).expand(3, 1, -1)
    assert torch.equal(positions.long(), expected)
    assert int(deltas) == 0


def test_scores_are_the_log_probabilities_of_the_next_id(thinker: Thinker) -> None:
    encoded = conversation(thinker, noise(2.0))
    with torch.inference_mode():
        scores = thinker.score(encoded)
        expected = stock_logits(thinker, encoded).masked_fill(~thinker.allowed, -torch.inf).log_softmax(-1)
    assert scores[0] == 0
    picked = expected[:-1].gather(1, torch.tensor(encoded.ids[1:])[:, None])[:, 0]
    sampled = torch.tensor(encoded.sampled)[1:]
    torch.testing.assert_close(scores[1:][sampled], picked[sampled], atol=1e-4, rtol=1e-4)


def test_gradients_flow_through_the_inserted_audio(thinker: Thinker) -> None:
    encoded = conversation(thinker, noise(2.0))
    thinker.zero_grad()
    (-thinker.score(encoded)[torch.tensor(encoded.sampled)].mean()).backward()
    for weight in (thinker.audio_tower.conv1.weight, thinker.decoder.embed_tokens.weight):
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().sum() > 0
    thinker.zero_grad()


def test_silence_and_the_shortest_clip_have_finite_tokens(thinker: Thinker) -> None:
    for samples in (np.zeros(16_000, np.float32), np.zeros(321, np.float32)):
        recording = Recording(samples)
        encoded = TranscriptEncoder(thinker.family, recording).encode(opened(recording))
        with torch.inference_mode():
            assert thinker.embed_encoded(encoded).isfinite().all()


@torch.inference_mode()
def test_the_second_runner_takes_clips_as_they_came(thinker: Thinker) -> None:
    """Its encoder is given items one by one; what is not audio stays vLLM's to encode."""
    receiver, _ = receiver_of(thinker)
    receiver.model_runner.model_state = SimpleNamespace(encoder_runner=Encoder(), rope_state=Rope())
    assert receiver.echo_hear(PARTS)[2:] == ["execute_mm_encoder", "init_prefill_positions"]
    features = [features_of(n) for n in N_FRAMES]
    items = [("audio", {"input_audio_features": SimpleNamespace(data=clip)}) for clip in features]
    encoder = receiver.model_runner.model_state.encoder_runner
    for a, b in zip(encoder.execute_mm_encoder(items), thinker.encode_features(features), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert a.untyped_storage().nbytes() == a.nbytes
    for other in ([*items, ("image", {})], [("audio", {"audio_embeds": None})]):
        assert encoder.execute_mm_encoder(other) == "stock"
    assert receiver.echo_hear(["join"]) == ["embed_input_ids"] and encoder.execute_mm_encoder(items) == "stock"


def test_positions_of_text_and_audio_are_there_already(thinker: Thinker) -> None:
    receiver, _ = receiver_of(thinker)
    rope = Rope()
    receiver.model_runner.model_state = SimpleNamespace(encoder_runner=None, rope_state=rope)
    receiver.echo_hear(["positions"])
    assert rope.prefill_positions.gpu.tolist() == [list(range(9))] * 6
    audio, image = SimpleNamespace(modality="audio"), SimpleNamespace(modality="image")
    rope.init_prefill_positions(0, None, [1, 2], [audio, audio])
    rope.init_prefill_positions(1, None, [1, 2], [])
    assert rope.asked == [] and rope.prefill_delta.np == {0: 0, 1: 0}
    rope.init_prefill_positions(1, None, [1, 2], [audio, image])
    rope.init_prefill_positions(1, None, [1, 2], [audio])  # that row holds an image's positions
    rope.init_prefill_positions(0, None, [1, 2], [audio])
    assert rope.asked == [1, 1]


def test_a_row_is_set_up_without_the_gpu(thinker: Thinker) -> None:
    """Where the prompt has something left to read; what the row drew last is written where it has not."""
    receiver, _ = receiver_of(thinker)
    states = States()
    receiver.model_runner.req_states = states
    assert receiver.echo_hear(["rows"]) == ["add_request"]
    drawn, guessed = states.last_sampled_tokens, states.draft_tokens
    states.add_request(req_id="a", all_token_ids=[4, 5, 6], num_computed_tokens=2)
    assert states.rows == {"a": (3, 2)} and drawn.tolist() == [0] and guessed.tolist() == [7]
    assert states.last_sampled_tokens is drawn and states.draft_tokens is guessed
    states.add_request(req_id="b", all_token_ids=[4, 5, 6], num_computed_tokens=3)
    assert drawn.tolist() == [6] and guessed.tolist() == [0]
    with pytest.raises(KeyError):
        states.add_request(all_token_ids=[4, 5], num_computed_tokens=1)
    assert states.last_sampled_tokens is drawn
    states.num_speculative_steps = 1
    states.add_request(req_id="c", all_token_ids=[4, 5, 6], num_computed_tokens=1)
    assert drawn.tolist() == [4]


class States:
    """vLLM's `RequestState`, as far as it is replaced: one row."""

    def __init__(self) -> None:
        self.last_sampled_tokens, self.draft_tokens = torch.tensor([0]), torch.tensor([7])
        self.num_speculative_steps = 0
        self.rows: dict[str, tuple[int, int]] = {}

    def add_request(self, **given: Any) -> None:
        ids, computed = given["all_token_ids"], given["num_computed_tokens"]
        self.rows[given["req_id"]] = len(ids), computed
        self.last_sampled_tokens[0] = ids[computed - 1]
        self.draft_tokens.zero_()


class Encoder:
    """vLLM's `EncoderRunner`, as far as it is replaced."""

    def execute_mm_encoder(self, items: Any) -> str:
        return "stock"


class Rope:
    """vLLM's `RopeState`, as far as it is replaced: two rows of three axes."""

    def __init__(self) -> None:
        self.prefill_positions = SimpleNamespace(gpu=torch.zeros(6, 9, dtype=torch.int32))
        self.prefill_delta = SimpleNamespace(np={})
        self.asked: list[int] = []

    def init_prefill_positions(self, req_idx: int, model: Any, prefill_token_ids: list[int], mm_features: Any) -> None:
        self.asked.append(req_idx)
