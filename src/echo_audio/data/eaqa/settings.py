"""Settings of the data engine: what a TOML file of `echo-audio data eaqa` may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from echo_audio.settings import Settings

TEST_URL = "test"
"""As `url`: the rule-based endpoint that ships, served on this machine while the run lasts."""


class SourceSettings(Settings):
    """One labelled source.

    Attributes:
        kind: which reader.
        labels: the label file (AudioSet-Strong: the TSV; MusicBench and AVQA: the JSON file).
        names: AudioSet-Strong: the TSV from label ids to names.
        audio: folder of recordings, or of parquet files that hold them (AudioSet-Strong).
        n: at most so many recordings; for scenes, how many to draw. 0 takes all.
        seed, banks, longest_s: of scenes.
        relations: AVQA: which questions to take, by what they are about.
    """

    kind: Literal["scenes", "folder", "audioset-strong", "musicbench", "avqa"]
    labels: str = ""
    names: str = ""
    audio: str = ""
    n: int = Field(default=0, ge=0)
    seed: int = 1
    banks: tuple[str, ...] = ()
    longest_s: float = Field(default=30.0, ge=4.5, le=30.0)
    relations: tuple[str, ...] = ("Sound", "Both")


class EndpointSettings(Settings):
    """A chat endpoint that speaks OpenAI's protocol.

    Attributes:
        url: base url up to and with `/v1`; "test" for the rule-based one that ships.
        model: name of the model there.
        key_env: name of the environment variable that holds the key; the key itself never stands in a file.
        temperature, max_tokens: of each request.
        output: how JSON is asked for: by schema, by `json_object`, or in words only.
        timeout_s: for one request.
        tries: of one request, while the endpoint fails.
        wait_s: before the second try; doubled for each further one, at most a minute.
        requests_per_minute: at most; 0 for no limit.
        price_in, price_out: of a million tokens, in any currency.
        thinking_tokens: that it thinks before each reply, about; for the estimate of the cost.
        audio_tokens_per_s: tokens that a second of audio costs; for the estimate.
    """

    url: str = TEST_URL
    model: str = "rules"
    key_env: str = ""
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=2048, ge=64)
    output: Literal["schema", "object", "words"] = "schema"
    timeout_s: float = Field(default=120.0, gt=0)
    tries: int = Field(default=6, ge=1)
    wait_s: float = Field(default=1.0, ge=0)
    requests_per_minute: float = Field(default=0.0, ge=0)
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    thinking_tokens: int = Field(default=0, ge=0)
    audio_tokens_per_s: float = Field(default=25.0, ge=0)


class AnnotateSettings(Settings):
    """Texts about each recording from an audio model.

    Attributes:
        by: nobody, a remote endpoint that takes audio, or one of our engines.
        endpoint: of the remote one.
        model: of our engine: a folder, a hub id, or "tiny".
        engine: which of ours: local runs anywhere, vllm needs a GPU and its extra.
        tries: of one text, while it is degenerate or contradicts the labels; then the text is left out.
        max_new_tokens: of one text from our engine.
    """

    by: Literal["none", "endpoint", "engine"] = "none"
    endpoint: EndpointSettings = EndpointSettings()
    model: str = "tiny"
    engine: Literal["local", "vllm"] = "local"
    tries: int = Field(default=3, ge=1)
    max_new_tokens: int = Field(default=300, ge=16)


class WriteSettings(Settings):
    """Questions, answers and reasonings.

    Attributes:
        endpoint: who writes.
        tries: of one row, while a check without a model finds fault.
        questions: rows of each recording.
        mix: share of each kind of question (see `prompts/kinds.toml`); empty for equal shares.
        most_choices: 2 to 6.
    """

    endpoint: EndpointSettings = EndpointSettings()
    tries: int = Field(default=3, ge=1)
    questions: int = Field(default=1, ge=1, le=20)
    mix: dict[str, float] = Field(default_factory=dict)
    most_choices: int = Field(default=4, ge=2, le=6)


class JudgeSettings(Settings):
    """Who says whether question and reasoning are valid.

    Attributes:
        endpoint: who judges.
        tries: of one row, while the verdict cannot be read.
    """

    tries: int = Field(default=3, ge=1)
    endpoint: EndpointSettings = EndpointSettings(temperature=0.0)


class GuessSettings(Settings):
    """Does the question need the audio? It is answered without.

    Attributes:
        by: nobody, a text endpoint that is shown the question only, or one of our engines that hears silence.
        endpoint: of the remote one.
        model: of our engine: a folder, a hub id, or "tiny".
        engine: which of ours: local runs anywhere, vllm needs a GPU and its extra.
        max_new_tokens: of one answer of our engine.
        samples: answers of each row, each with the choices in another order.
        least_contribution: rows whose `audio_contribution` (1 less the share of right guesses) is under this are dropped.
    """

    by: Literal["none", "endpoint", "engine"] = "none"
    endpoint: EndpointSettings = EndpointSettings(max_tokens=256)
    model: str = "tiny"
    engine: Literal["local", "vllm"] = "local"
    max_new_tokens: int = Field(default=256, ge=16)
    samples: int = Field(default=3, ge=1)
    least_contribution: float = Field(default=0.0, ge=0, le=1)


class CheckSettings(Settings):
    """Limits of the checks that need no model.

    Attributes:
        fewest_words, most_words: of a reasoning.
        words_around: before and after each segment, at least.
        near_duplicate: similarity (0 to 1) of question, choices and reasoning from which a row counts as a copy.
        same_template: rows at most whose reasonings differ by names and numbers only; 0 for no limit.
        known: files with questions of tests; rows that ask one of them are dropped.
        known_similarity: from which similarity of question and choices.
    """

    fewest_words: int = Field(default=20, ge=1)
    most_words: int = Field(default=400, ge=10)
    words_around: int = Field(default=3, ge=0)
    near_duplicate: float = Field(default=0.9, gt=0, le=1)
    same_template: int = Field(default=50, ge=0)
    known: tuple[str, ...] = ()
    known_similarity: float = Field(default=0.8, gt=0, le=1)


class EaqaSettings(Settings):
    """One run of the data engine.

    Attributes:
        out: folder of the run; one begun with the same settings is continued.
        seed: of the kinds of question, the order of choices and the requests.
        in_flight: recordings worked on at once.
        stop_after: rows in a row that the endpoint fails before the run stops.
        longest_s: longer recordings are skipped.
        budget: price of all calls at which the run stops; 0 for no limit.
        prompts: folder with prompts of your own; empty for those that ship.
        sources: by name.
    """

    name: str = "eaqa"
    out: str = "runs/eaqa"
    seed: int = 1
    in_flight: int = Field(default=8, ge=1, le=512)
    stop_after: int = Field(default=20, ge=1)
    longest_s: float = Field(default=60.0, gt=0, le=300.0)
    budget: float = Field(default=0.0, ge=0)
    prompts: str = ""
    sources: dict[str, SourceSettings]
    annotate: AnnotateSettings = AnnotateSettings()
    write: WriteSettings = WriteSettings()
    judge: JudgeSettings = JudgeSettings()
    guess: GuessSettings = GuessSettings()
    checks: CheckSettings = CheckSettings()


_HOW = frozenset({"url", "key_env", "timeout_s", "wait_s", "requests_per_minute", "price_in", "price_out", "thinking_tokens"})
_HOW |= frozenset({"name", "out", "in_flight", "stop_after", "budget", "audio_tokens_per_s", "engine"})


def identity(settings: EaqaSettings) -> dict[str, Any]:
    """What decides which rows a run makes, by dotted key; how fast, from where and for how much is left out."""
    found: dict[str, Any] = {}
    _flatten(settings.model_dump(mode="json"), (), found)
    return found


def _flatten(values: Mapping[str, Any], path: tuple[str, ...], found: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _flatten(value, (*path, key), found)
        elif key not in _HOW and (*path[-1:], key) != ("endpoint", "tries"):
            found[".".join((*path, key))] = value
