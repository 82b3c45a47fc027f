"""What comes after, before or between, and what is first or last: answers in names, found by times."""

from __future__ import annotations

from echo_audio.data.questions.base import OVERLAP, Asked, Canvas, Kind, told
from echo_audio.data.scene import Event
from echo_audio.data.wording import bare, capital, listed, tag, the

AFTER = (
    "Which sound comes right after {x}?",
    "What is heard directly after {x}?",
    "What follows {x}?",
    "After {x}, which sound is next?",
    "Which sound do you hear next once {x} is over?",
    "What comes immediately after {x}?",
    "{X} is followed by which sound?",
    "When {x} has ended, what do you hear next?",
)
BEFORE = (
    "Which sound comes right before {x}?",
    "What is heard directly before {x}?",
    "What precedes {x}?",
    "Before {x}, which sound was the latest?",
    "Which sound do you hear last before {x} starts?",
    "What comes immediately before {x}?",
    "{X} is preceded by which sound?",
    "Which sound leads up to {x}?",
)
BETWEEN = (
    "What is heard between {x} and {y}?",
    "Which sound lies between {x} and {y}?",
    "Between {x} and {y}, which sound is there?",
    "Which sound comes after {x} but before {y}?",
    "What do you hear once {x} is over and {y} has not begun?",
    "{X} and {y} have one sound between them. Which one?",
    "What separates {x} from {y}?",
)
FIRST = (
    "Which of these sounds is heard first?",
    "Which of them comes first?",
    "Which sound is the earliest of these?",
    "What do you hear first?",
    "Of these sounds, which one starts before the others?",
    "Which of these opens the recording?",
    "Which one is heard before all the others?",
)
LAST = (
    "Which of these sounds is heard last?",
    "Which of them comes last?",
    "Which sound is the latest of these?",
    "What do you hear last?",
    "Of these sounds, which one starts after the others?",
    "Which of these closes the recording?",
    "Which one is heard after all the others?",
)

# Where the answer is what a segment holds, its name is written after the segment: what is heard again says it.
_NEXT = (
    "Right after it{s} comes {n}; {h}.",
    "The next sound{s} is {n}, and {h}.",
    "What follows{s} is {n}. {H}.",
    "What I hear next{s} is {n}: {h}.",
    "After a pause{s} there is {n}, and {h}.",
    "Its follower{s} is {n}; {h}.",
    "Going on from there{s} I reach {n}. {H}.",
)
_PREVIOUS = (
    "Right before it{s} comes {n}; {h}.",
    "The sound ahead of it{s} is {n}, and {h}.",
    "Going back one sound{s} I find {n}. {H}.",
    "What I hear just before{s} is {n}: {h}.",
    "Earlier, with only a pause between{s}, there is {n}, and {h}.",
    "What leads up to it{s} is {n}; {h}.",
    "One step back{s} lies {n}. {H}.",
)
_OTHER = (
    "For comparison I check {n}{s}: it is {rel}.",
    "{N} is elsewhere{s}, {rel}.",
    "I rule out {n}{s}, which is {rel}.",
    "As for {n}{s}, it lies {rel}.",
    "{N} does not fit{s}: it is {rel}.",
)


_VERBS_AFTER = (
    "find what follows",
    "hear what comes after",
    "learn what is next to sound after",
    "name what comes right after",
)
_VERBS_BEFORE = (
    "find what precedes",
    "hear what comes before",
    "learn what sounds just before",
    "name what comes right before",
)
_GUESS = (
    "I try this place first{s}, which holds {n}; {h}.",
    "My first guess{s} is {n}, and {h}.",
    "Perhaps it is here{s}: {n}. {H}.",
)
_CHECKED = (
    "It stands right {w} {x}{s}, as I can hear.",
    "To be sure I check {x}{s}: nothing lies in between, and {a} is {w} it.",
    "Its neighbour is {x}{s}, so {a} comes right {w} {x}.",
)
_CLOSES = (
    "Then {n} closes it{s}; {h}.",
    "After that comes {n}{s}, and {h}.",
    "{N} ends the stretch{s}: {h}.",
)
_ONE_SIDE = (
    "{X} comes first{s}, and I note it.",
    "One side is {x}{s}; {h}.",
    "The stretch starts at {x}{s}, and {h}.",
)
_OTHER_SIDE = ("The other side is {y}{s}; {h}.", "It stops at {y}{s}, and {h}.", "{Y} bounds it{s}: {h}.")
_MIDDLE = (
    "In between{s} lies {n}; {h}.",
    "What remains between them{s} is {n}, and {h}.",
    "I listen between the two{s} and get {n}. {H}.",
    "The middle{s} holds {n}: {h}.",
)
_BETWEEN_GOALS = (
    "find what lies between {x} and {y}",
    "hear what is between {x} and {y}",
    "name the sound after {x} and before {y}",
)


_IN_ORDER = (
    "In order of time they are {order}.",
    "The order is {order}.",
    "I hear {order}, in that order.",
    "From start to end: {order}.",
)
_CANDIDATE = (
    "The one to beat is {n}{s}; {h}.",
    "I check {n}{s}, and {h}.",
    "There is {n}{s}, and {h}.",
    "I go to {n}{s}. {H}.",
)
_RIVAL = (
    "Closest to it is {b}{s}, which comes {side} it.",
    "I compare {b}{s}: it is {side} that.",
    "{B} comes {side} it{s}, as I hear.",
    "Even {b}{s} is {side} it.",
    "Next I take {b}{s}, but it lies {side} the other.",
)
_BEATEN = (
    "But {a}{s} is on its other side: it comes {w}.",
    "Yet {a}{s} beats it, being the {w}.",
    "Then there is {a}{s}; of the two it is the {w}.",
)


def spread(c: Canvas, first: int, last: int, k: int) -> list[int]:
    """k positions from first to last of which no two are neighbours, by rank."""
    picked = sorted(c.sample(range(last - first + 2 - k), k))
    return [first + position + i for i, position in enumerate(picked)]


def most(c: Canvas, per_choice: int, extra: int) -> int:
    """A number of choices, 2 to 4, for which the recording has room."""
    return max(2, min(c.integer(2, 4), (c.room - extra) // per_choice))


def _relation(other: Event, anchor: Event) -> str:
    return "later" if other.start_s > anchor.start_s else "earlier"


def _neighbour(c: Canvas, after: bool) -> Asked:
    """The choices all have a neighbour that is no choice; any of them could be asked for."""
    k = most(c, 2, 0)
    n = max(2 * k, c.size(2 * k))
    events = c.line(c.sounds(n))
    places = spread(c, 1, n - 1, k) if after else spread(c, 0, n - 2, k)
    place = c.pick(places)
    target, anchor = events[place], events[place - 1 if after else place + 1]
    x, a = the(anchor.label), the(target.label)
    other = events[c.pick([p for p in places if p != place])]
    verb = c.pick(_VERBS_AFTER)
    if not after:
        verb = c.pick(_VERBS_BEFORE)
    step = _NEXT if after else _PREVIOUS
    evidence = [anchor, target]
    body = [c.look(anchor, x), c.look(target, a, templates=step)]
    if c.chance(0.35):
        evidence.append(other)
        body.append(_other(c, other, f"{_relation(other, target)} than that"))
    elif c.chance(0.25):
        word = "after" if after else "before"
        evidence.reverse()
        body = [
            c.say(
                _GUESS,
                n=a,
                s=tag(target),
                h=(heard := c.heard(target)),
                H=capital(heard),
            ),
            c.say(
                _CHECKED,
                w=word,
                x=x,
                a=a,
                s=tag(anchor),
            ),
        ]
    return Asked(
        events=tuple(events),
        question=c.say(AFTER if after else BEFORE, x=x, X=capital(x)),
        choices=tuple(bare(events[p].label) for p in c.shuffled(places)),
        answer=bare(target.label),
        reasoning=told(c.opening(f"{verb} {x}"), *body, c.conclusion(a)),
        evidence=tuple(evidence),
    )


def _other(c: Canvas, event: Event, relation: str) -> str:
    name = the(event.label)
    return c.say(_OTHER, n=name, N=capital(name), s=tag(event), rel=relation)


def _between(c: Canvas) -> Asked:
    k = most(c, 2, 1)
    n = max(2 * k + 1, c.size(2 * k + 1))
    events = c.line(c.sounds(n))
    places = spread(c, 1, n - 2, k)
    place = c.pick(places)
    left, target, right = events[place - 1 : place + 2]
    x, y, a = the(left.label), the(right.label), the(target.label)
    if c.chance(0.5):
        body = [
            c.look(left, x),
            c.look(target, a, templates=_NEXT),
            c.look(
                right,
                y,
                templates=_CLOSES,
            ),
        ]
        evidence = (left, target, right)
    else:
        body = [
            c.say(
                _ONE_SIDE,
                x=x,
                X=capital(x),
                s=tag(left),
                h=c.heard(left),
            ),
            c.say(
                _OTHER_SIDE,
                y=y,
                Y=capital(y),
                s=tag(right),
                h=c.heard(right),
            ),
            c.look(
                target,
                a,
                templates=_MIDDLE,
            ),
        ]
        evidence = (left, right, target)
    goal = c.pick(_BETWEEN_GOALS)
    question = c.say(BETWEEN, x=x, X=capital(x), y=y)
    return Asked(
        events=tuple(events),
        question=question,
        choices=tuple(bare(events[p].label) for p in c.shuffled(places)),
        answer=bare(target.label),
        reasoning=told(c.opening(goal.format(x=x, y=y)), *body, c.conclusion(a)),
        evidence=evidence,
    )


def _extreme(c: Canvas, last: bool) -> Asked:
    n = c.size(3)
    k = c.integer(2, min(5, n))
    events = c.line(c.sounds(n), fixed=overlaps(c, n))
    places = sorted(c.sample(range(n), k), reverse=last)
    target, rival = events[places[0]], events[places[1]]
    a, b = the(target.label), the(rival.label)
    word, side, goal = ("last", "before", "latest") if last else ("first", "after", "earliest")
    goal = c.pick(
        (
            f"find the {goal} of these sounds",
            f"see which of them comes {word}",
            f"put the choices in order and take the {word} one",
        )
    )
    order = listed([the(events[p].label) for p in sorted(places)])
    middle = c.say(
        _IN_ORDER,
        order=order,
    )
    look = c.look(
        target,
        a,
        templates=_CANDIDATE,
    )
    rest = c.say(
        _RIVAL,
        b=b,
        B=capital(b),
        s=tag(rival),
        side=side,
    )
    body, evidence = [look, rest], [target, rival]
    if c.chance(0.4):
        body = [
            c.look(rival, b),
            c.say(
                _BEATEN,
                a=a,
                s=tag(target),
                w="later" if last else "earlier",
            ),
        ]
        evidence = [rival, target]
    if c.chance(0.5):
        body.insert(c.integer(0, 2), middle)
    return Asked(
        events=tuple(events),
        question=c.pick(LAST if last else FIRST),
        choices=tuple(bare(events[p].label) for p in c.shuffled(places)),
        answer=bare(target.label),
        reasoning=told(c.opening(goal), *body, c.conclusion(a)),
        evidence=tuple(evidence),
    )


def overlaps(c: Canvas, n: int, keep: frozenset[int] = frozenset()) -> dict[int, int]:
    """Overlaps for one or two pairs of neighbours out of n events, none of them in `keep`."""
    if c.chance(0.5):
        return {}
    free = [i for i in range(n - 1) if i not in keep and i + 1 not in keep]
    if not free:
        return {}
    first = c.pick(free)
    second = c.pick(free)
    return dict.fromkeys({first, second} if abs(first - second) > 1 else {first}, OVERLAP)


KINDS = (
    Kind("after", lambda c: _neighbour(c, after=True)),
    Kind("before", lambda c: _neighbour(c, after=False)),
    Kind("between", _between),
    Kind("first", lambda c: _extreme(c, last=False), asked=frozenset({"start"})),
    Kind("last", lambda c: _extreme(c, last=True), asked=frozenset({"start"})),
)
