"""Settings of the data engine: what a TOML file of `echo-audio data eaqa` may say."""

from __future__ import annotations

from typing import Literal

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


class AnnotateSettings(Settings):
    """Texts about each recording from an audio model.

    Attributes:
        by: nobody, a remote endpoint that takes audio, or one of our engines.
        endpoint: of the remote one.
        model: of our engine: a folder, a hub id, or "tiny".
        tries: of one text, while it is degenerate or contradicts the labels; then the text is left out.
        max_new_tokens: of one text from our engine.
    """

    by: Literal["none", "endpoint", "engine"] = "none"
    endpoint: EndpointSettings = EndpointSettings()
    model: str = "tiny"
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
    """Who says whether question and reasoning are valid."""

    endpoint: EndpointSettings = EndpointSettings(temperature=0.0)


class GuessSettings(Settings):
    """Does the question need the audio? It is answered without.

    Attributes:
        by: nobody, a text endpoint that is shown the question only, or one of our engines that hears silence.
        endpoint: of the remote one.
        model: of our engine: a folder, a hub id, or "tiny".
        samples: answers of each row, each with the choices in another order.
    """

    by: Literal["none", "endpoint", "engine"] = "none"
    endpoint: EndpointSettings = EndpointSettings(max_tokens=256)
    model: str = "tiny"
    samples: int = Field(default=3, ge=1)


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
        prompts: folder with prompts of your own; empty for those that ship.
        sources: by name.
    """

    name: str = "eaqa"
    out: str = "runs/eaqa"
    seed: int = 1
    in_flight: int = Field(default=8, ge=1, le=512)
    stop_after: int = Field(default=20, ge=1)
    prompts: str = ""
    sources: dict[str, SourceSettings]
    annotate: AnnotateSettings = AnnotateSettings()
    write: WriteSettings = WriteSettings()
    judge: JudgeSettings = JudgeSettings()
    guess: GuessSettings = GuessSettings()
    checks: CheckSettings = CheckSettings()
