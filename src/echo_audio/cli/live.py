"""A reasoning on the screen while it comes about, and what is said when it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from rich.console import Console
from rich.text import Text

from echo_audio import tags
from echo_audio.audio import Recording, Segment
from echo_audio.cli import timeline
from echo_audio.cli.console import Flow, console, shown
from echo_audio.listen import Event, Finished, Wrote
from echo_audio.scoring.answers import strict_choice, strict_score
from echo_audio.transcript import Heard, Note, Played, Question, Stop, Transcript, What, Why

_PLAYED = {Played.SILENCED: " silence", Played.SWAPPED: " another recording", Played.WITHHELD: " nothing", Played.CROP: ""}
_UNHEARD = {
    What.UNPARSEABLE: "two numbers are needed",
    What.REVERSED: "its end lies before its start",
    What.OUT_OF_RANGE: "outside the recording",
    What.TOO_SHORT: "too short",
    What.REPEATED: "heard already",
    What.MISPLACED: "outside the reasoning",
    What.RELISTEN_LIMIT: "no re-listens left",
}
_NO_ANSWER = {
    Stop.END_OF_TURN: "the model stopped without giving one",
    Stop.MALFORMED: "the model's tags do not parse",
    Stop.TURN_LIMIT: "the model was asked to go on too often",
    Stop.TOKEN_LIMIT: "the model ran out of tokens; allow more with --max-new-tokens",
    Stop.AUDIO_LIMIT: "the model asked to hear more than is allowed",
}


async def watch(
    events: AsyncIterator[Event], transcript: Transcript, recording: Recording, name: str
) -> Transcript:
    """Show a listening from the question to the answer.

    Args:
        events: of that transcript, from `stream`.
        name: of the recording, for people.

    Returns:
        The finished transcript.
    """
    where = console()
    show_question(transcript.question, name, where)
    reasoning = Reasoning(where, recording.duration_s)
    try:
        async for event in events:
            reasoning.show(event)
            if isinstance(event, Finished):
                transcript = event.transcript
    finally:
        reasoning.finish()
    where.print()
    show_picture(transcript, recording, where)
    where.print()
    where.print(answer_line(transcript), soft_wrap=True)
    return transcript


class Reasoning:
    """Shows the events of one listening: text in a flow, segments in their colours, a note for each one heard."""

    def __init__(self, where: Console, duration_s: float) -> None:
        self._flow = Flow(where)
        self._glyphs = timeline.glyphs_for(where)
        self._duration_s = duration_s
        self._cutter = tags.Cutter()
        self._bold = False
        self._style = ""
        self._colours: dict[Segment, str] = {}
        self._after_mark = False  # a word that follows needs a space before it, a comma does not

    def show(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Wrote):
            self._write(self._cutter.feed(event.text))
        elif isinstance(event, Heard) and event.why is Why.ASKED:
            self._flow.write(f"{self._glyphs.heard}{_PLAYED[event.played]}", self._style)
            self._after_mark = True
        elif isinstance(event, Note):
            self._remark(event)

    def finish(self) -> None:
        """Nothing comes any more."""
        self._write(self._cutter.finish())
        self._flow.finish()

    def _remark(self, note: Note) -> None:
        if note.what in _UNHEARD:
            self._flow.write(f" (not heard: {_UNHEARD[note.what]})", "dim")
        elif note.what is What.FORCED_ANSWER:
            self.finish()
            self._flow.write("(its budget is used up: Echo asks for the answer)\n", "dim")
        elif note.what is What.ENGINE_FAILED:
            self.finish()
            self._flow.write(f"(the engine failed: {note.detail})\n", "red")

    def _write(self, parts: Iterable[tags.Part]) -> None:
        for part in parts:
            if part.kind is tags.Kind.SEGMENT:
                self._segment(part.text)
            elif part.kind is tags.Kind.MARK:
                self._flow.write(part.text, "dim")
                self._bold = (self._bold or part.text == tags.ANSWER_OPEN) and part.text != tags.ANSWER_CLOSE
            else:
                self._text(part.text)

    def _text(self, text: str) -> None:
        if text and self._after_mark:
            self._after_mark = False
            text = f" {text}" if text[0].isalnum() else text
        self._flow.write(text, "bold" if self._bold else "")

    def _segment(self, text: str) -> None:
        """A closed segment tag, in the colour that the picture gives it too."""
        self._style = "dim"
        for written in tags.segments_in(text):
            if written.start_s < self._duration_s:
                segment = Segment(written.start_s, min(written.end_s, self._duration_s))
                unused = timeline.COLOURS[len(self._colours) % len(timeline.COLOURS)]
                self._style = self._colours.setdefault(segment, unused)
        self._flow.write(text, self._style)


def show_question(question: Question, name: str, where: Console) -> None:
    """The recording's name and length, the question, the choices."""
    where.print(Text.assemble((shown(name), "bold"), (f"  {question.duration_s:.1f} s", "dim")), soft_wrap=True)
    flow = Flow(where, indent=2)
    flow.write(question.text, "bold")
    flow.finish()
    flow = Flow(where, indent=4)
    for choice in question.choices:
        flow.write(f"- {choice}\n")
    where.print()


def show_picture(transcript: Transcript, recording: Recording, where: Console) -> None:
    """The recording with the segments heard again; where none was, with those that were written."""
    colours = timeline.colours_of(transcript.cited)
    note = timeline.glyphs_for(where).heard
    heard = {h.segment: note + _PLAYED[h.played] for h in transcript.asked}
    bars = [timeline.Bar(segment, heard.get(segment, "written"), style) for segment, style in colours.items()]
    where.print(timeline.draw(recording, bars, where), soft_wrap=True)


def answer_line(transcript: Transcript) -> Text:
    """The answer, or why there is none; and whether it is right, where that is known."""
    given, question = transcript.answer, transcript.question
    if not given:
        return Text.assemble(("No answer: ", "bold red"), why_no_answer(transcript))
    line = Text.assemble(("Answer: ", "bold"), (shown(given), "bold"))
    if question.choices and strict_choice(given, question.choices) is None:
        line.append("  (none of the choices)", "yellow")
    if question.answer is not None:
        right = strict_score(transcript.response, question.answer, question.choices).correct
        verdict = "  right" if right else f"  wrong, the truth is: {shown(question.answer)}"
        line.append(verdict, "green" if right else "red")
    if transcript.stop is not Stop.ANSWERED and transcript.stop is not None:
        forced = ": Echo asked for the answer" if transcript.stop.is_limit else ""
        line.append(f"  ({transcript.stop.value.replace('_', ' ')}{forced})", "dim")
    return line


def why_no_answer(transcript: Transcript) -> str:
    """One clause."""
    if transcript.stop is Stop.ENGINE_ERROR:
        failures = [note.detail for note in transcript.notes if note.what is What.ENGINE_FAILED]
        return f"the engine failed: {shown(failures[-1] if failures else 'unknown')}"
    return _NO_ANSWER.get(transcript.stop or Stop.END_OF_TURN, "the model gave none")
