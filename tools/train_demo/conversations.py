"""The demo's conversations, made from random numbers.

An `Example` is a conversation up to a point where the model speaks, and what it should say. Each
task draws its contents (pairs of numbers, wordings, names, words) from one of two disjoint halves
that a hash tells apart, so nothing that is asked in the evaluation was ever trained.
"""

# Long lists read better as text.
# ruff: noqa: SIM905

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from facts import FACTS, Fact

from gptoss.chat.messages import assistant_start, build_prompt, call_header, header
from gptoss.harmony import HarmonyEncoding

EFFORTS = ("low", "medium", "high")
DECLINE = (
    "I am a demo model and only know sums, comparisons, short words, tools and questions about "
    "gptoss."
)


@dataclass
class Example:
    """One exercise.

    `messages` and `tools` are what `LLM.chat` takes (OpenAI's shape). The model answers with
    `reasoning` and then either `text` or `call` (name, arguments).
    """

    task: str
    effort: str
    messages: list[dict[str, Any]]
    reasoning: str
    text: str | None = None
    call: tuple[str, dict[str, Any]] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    developer: str | None = None
    date: str | None = None


def held_out(content: str) -> bool:
    """Whether a content is kept from training: one in ten, by its hash."""
    return hashlib.sha256(content.encode()).digest()[0] % 10 == 0


class Draw:
    """Random choices whose contents come from training or from the held-out part."""

    def __init__(self, seed: int, held: bool) -> None:
        self.random = random.Random(seed)
        self.held = held

    def one(self, options: Any) -> Any:
        return self.random.choice(options)

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def fresh(self, make: Callable[[], Any], key: Callable[[Any], str] = str) -> Any:
        """Draw until the content is of the wanted part."""
        while True:
            value = make()
            if held_out(key(value)) == self.held:
                return value

    def word(self, syllables: int | None = None) -> str:
        """An invented word."""

        def make() -> str:
            parts = []
            for _ in range(syllables or self.one((2, 2, 2, 3))):
                parts.append(self.one(_ONSETS) + self.one("aeiou"))
            return "".join(parts) + self.one(_CODAS)

        return str(self.fresh(make))

    def name(self) -> str:
        """A capitalised name: mostly invented, in training at times a known one."""
        if not self.held and self.chance(0.25):
            return str(self.one(_PLACES + _PEOPLE))
        return self.word().capitalize()

    def number(self, digits: int) -> int:
        return self.random.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cr dr fl gr kr pl pr sh sk st th tr".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "x", "m", "k", "nd", "rt"]
_PLACES = (
    "Paris London Berlin Tokyo Madrid Rome Oslo Vienna Lima Cairo Delhi Boston Sydney Toronto "
    "Dublin Athens Prague Warsaw Lisbon Zurich Geneva Milan Naples Kyoto Osaka Seoul Hanoi "
    "Bogota Quito Havana Denver Austin Dallas Miami Chicago France Spain Japan Brazil Kenya "
    "Norway Chile Peru Egypt India Canada Mexico Munich Hamburg Bern Basel Graz Porto"
).split()
_PEOPLE = (
    "Alice Bob Carol David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nina Oscar Paul "
    "Rosa Simon Tina Victor Wendy Anna Ben Clara Dora Eric Fiona George Hanna Ivan Julia"
).split()


# -- numbers ---------------------------------------------------------------------------------

_PLACE_NAMES = ("ones", "tens", "hundreds", "thousands", "next")


def _digits(value: int, count: int) -> list[int]:
    return [value // 10**i % 10 for i in range(count)]


def _sum_steps(a: int, b: int) -> tuple[list[str], list[int]]:
    """The step of each digit from the right, and its value."""
    count = max(len(str(a)), len(str(b)))
    steps, values, carry = [], [], 0
    for x, y in zip(_digits(a, count), _digits(b, count), strict=True):
        value = x + y + carry
        steps.append(f"{x}+{y}" + ("+1" if carry else "") + f"={value}")
        values.append(value)
        carry = value // 10
    return steps, values


def _difference_steps(a: int, b: int) -> tuple[list[str], list[int]]:
    """The same for a - b, a >= b; a digit that borrows is written with its ten."""
    count = len(str(a))
    steps, values, borrow = [], [], 0
    for x, y in zip(_digits(a, count), _digits(b, count), strict=True):
        taken = y + borrow
        top = x if x >= taken else x + 10
        steps.append(f"{top}-{y}" + ("-1" if borrow else "") + f"={top - taken}")
        values.append(top - taken)
        borrow = int(top > 9)
    return steps, values


def _worked(a: int, b: int, sign: str, effort: str) -> str:
    if sign == "-" and a < b:
        smaller = f"{a}<{b}, so minus {b}-{a}"
        return smaller + _worked(b, a, sign, effort)[len(f"{b}-{a}") :]
    steps, values = _sum_steps(a, b) if sign == "+" else _difference_steps(a, b)
    task = f"{a}{sign}{b}"
    result = a + b if sign == "+" else a - b
    if effort == "low":
        return f"{task}: {' '.join(steps)}"
    lines = []
    for i, (step, value) in enumerate(zip(steps, values, strict=True)):
        line = f"{_PLACE_NAMES[i]}: {step}, write {value % 10}"
        if sign == "+" and value > 9 and i + 1 < len(steps):
            line += " carry 1"
        lines.append(line)
    body = "\n".join(lines)
    if effort == "medium":
        return f"{task}\n{body}\nso {result}"
    if sign == "+":
        check = f"{b}+{a}: {' '.join(_sum_steps(b, a)[0])}"
    else:
        check = f"{result}+{b}: {' '.join(_sum_steps(result, b)[0])}"
    return (
        f"{task}\nWe go digit by digit from the right.\n{body}\nso {result}\n"
        f"Now we check with {check}\nThis is right, so {result}"
    )


_SUMS = (
    "What is {a} + {b}?|{a} + {b}|{a}+{b}|What is {a}+{b}?|Add {a} and {b}.|How much is {a} + {b}?|"
    "How much is {a} plus {b}?|What is {a} plus {b}?|Compute {a} + {b}.|Calculate {a} + {b}.|"
    "What is the sum of {a} and {b}?|Sum {a} and {b}.|{a} plus {b}|{a} + {b} = ?|{a} + {b}?|"
    "Please add {a} and {b}.|Can you add {a} and {b}?|Tell me {a} + {b}.|what is {a} + {b}"
).split("|")
_DIFFERENCES = (
    "What is {a} - {b}?|{a} - {b}|{a}-{b}|What is {a}-{b}?|Subtract {b} from {a}.|"
    "How much is {a} - {b}?|How much is {a} minus {b}?|What is {a} minus {b}?|Compute {a} - {b}.|"
    "Calculate {a} - {b}.|What is the difference of {a} and {b}?|{a} minus {b}|{a} - {b} = ?|"
    "Take {b} from {a}.|Please subtract {b} from {a}.|{a} - {b}?|what is {a} - {b}"
).split("|")
_MORE = "Now add {b}.|Add {b} to that.|And plus {b}?|Plus {b}?|Add {b}.|Add {b} more.|+ {b}".split(
    "|"
)
_LESS = "Now subtract {b}.|Subtract {b} from that.|And minus {b}?|Minus {b}?|Take {b} away.".split(
    "|"
)
_LARGER = (
    "Which is larger, {a} or {b}?|Which is greater, {a} or {b}?|Which is bigger: {a} or {b}?|"
    "Which number is larger, {a} or {b}?|What is larger, {a} or {b}?|Compare {a} and {b}.|"
    "Compare {a} with {b}.|Which one is greater, {a} or {b}?|{a} or {b}, which is larger?"
).split("|")
_SMALLER = (
    "Which is smaller, {a} or {b}?|Which is less, {a} or {b}?|Which is smaller: {a} or {b}?|"
    "Which number is smaller, {a} or {b}?|What is smaller, {a} or {b}?|"
    "Which one is smaller, {a} or {b}?|{a} or {b}, which is smaller?"
).split("|")


def _pair(draw: Draw, kind: str, digits: int | None = None) -> tuple[int, int]:
    def make() -> tuple[int, int]:
        longest = digits or draw.random.choices((1, 2, 3, 4), (1, 4, 5, 4))[0]
        other = longest if digits or draw.chance(0.6) else draw.random.randint(1, longest)
        pair = [draw.number(longest), draw.number(other)]
        draw.random.shuffle(pair)
        return pair[0], pair[1]

    return draw.fresh(make, lambda pair: f"{kind} {pair[0]} {pair[1]}")  # type: ignore[no-any-return]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def addition(draw: Draw, effort: str, digits: int | None = None) -> Example:
    a, b = _pair(draw, "+", digits)
    return Example(
        "sum",
        effort,
        [_user(draw.one(_SUMS).format(a=a, b=b))],
        _worked(a, b, "+", effort),
        f"{a} + {b} = {a + b}.",
    )


def subtraction(draw: Draw, effort: str, digits: int | None = None) -> Example:
    a, b = _pair(draw, "-", digits)
    if a < b and draw.chance(0.5) and held_out(f"- {b} {a}") == draw.held:
        a, b = b, a
    return Example(
        "difference",
        effort,
        [_user(draw.one(_DIFFERENCES).format(a=a, b=b))],
        _worked(a, b, "-", effort),
        f"{a} - {b} = {a - b}.",
    )


def follow_up(draw: Draw, effort: str) -> Example:
    """A second sum that starts from the first one's result."""
    first = addition(draw, effort) if draw.chance(0.7) else subtraction(draw, effort)
    assert first.text is not None
    a = int(first.text.rstrip(".").split(" = ")[1])
    sign = "+" if a < 0 or draw.chance(0.6) else "-"
    if a < 0:
        return follow_up(draw, effort)
    b = draw.fresh(lambda: draw.number(draw.one((1, 2, 2, 3))), lambda b: f"{sign} {a} {b}")
    wording = draw.one(_MORE if sign == "+" else _LESS).format(b=b)
    return Example(
        "follow-up",
        effort,
        [*first.messages, _assistant(first.text), _user(wording)],
        _worked(a, b, sign, effort),
        f"{a} {sign} {b} = {a + b if sign == '+' else a - b}.",
    )


def comparison(draw: Draw, effort: str) -> Example:
    a, b = _pair(draw, "?")
    if draw.chance(0.3) and a != b:  # alike but for the last digits
        near = a + draw.random.randint(-9, 9)
        if near >= 0 and held_out(f"? {a} {near}") == draw.held:
            b = near
    larger = draw.chance(0.65)
    question = draw.one(_LARGER if larger else _SMALLER).format(a=a, b=b)
    compare = "compare" in question.lower()
    x, y = str(a), str(b)
    if len(x) != len(y):
        steps = [f"{len(x)} digits and {len(y)} digits"]
    else:
        steps = []
        for p, q in zip(x, y, strict=True):
            steps.append(f"{p}{'=' if p == q else '<' if p < q else '>'}{q}")
            if p != q:
                break
    sign = "=" if a == b else "<" if a < b else ">"
    reasoning = f"{a} and {b}: {', '.join(steps)}"
    if effort != "low":
        reasoning += f"\nso {a}{sign}{b}"
    if effort == "high":
        reasoning = (
            f"We compare two numbers, first by their length, then digit by digit.\n{reasoning}\n"
            f"The question asks for the {'larger' if larger else 'smaller'} one."
        )
    if a == b:
        text = f"{a} and {b} are equal."
    else:
        first, second = (max(a, b), min(a, b)) if larger or compare else (min(a, b), max(a, b))
        text = f"{first} is {'larger' if larger or compare else 'smaller'} than {second}."
    return Example("comparison", effort, [_user(question)], reasoning, text)


# -- questions about gptoss ------------------------------------------------------------------

_SPELLINGS = {
    "mxfp4": "MXFP4",
    "harmony": "Harmony",
    "yarn": "YaRN",
    "checkpointerror": "CheckpointError",
    "python": "Python",
    "hugging face": "Hugging Face",
    "chatgpt": "ChatGPT",
    "cli": "CLI",
    "ram": "RAM",
    "gb": "GB",
    "moe": "MoE",
    "llm.run": "LLM.run",
    "i": "I",
}
_BEFORE = ("Please tell me: ", "Quick question: ", "Hi! ", "Tell me, ", "One more: ", "Hello, ")
_IMPERATIVES = (
    "explain describe define tell list name show load introduce hello hi hey good thank thanks many"
).split()


def _spoken(draw: Draw, wording: str) -> str:
    """A wording as people type it."""
    words = wording
    if draw.chance(0.8):
        for plain, proper in _SPELLINGS.items():
            words = f" {words} ".replace(f" {plain} ", f" {proper} ").strip()
    if draw.chance(0.8):
        words = words[0].upper() + words[1:]
    if words.split()[0].lower() in _IMPERATIVES:
        words += draw.one((".", ".", "", "!"))
    else:
        words += draw.one(("?", "?", "?", ""))
    return (draw.one(_BEFORE) if draw.chance(0.1) else "") + words


def question(draw: Draw, effort: str, fact: Fact | None = None) -> Example:
    def make() -> tuple[Fact, str]:
        chosen = fact or draw.one(FACTS)
        return chosen, draw.one(_WORDINGS[chosen.topic])

    chosen, wording = draw.fresh(make, lambda pair: pair[1])
    if effort == "low":
        reasoning = f"Topic: {chosen.topic}."
    elif effort == "medium":
        reasoning = f"The user asks about {chosen.topic}. I know this."
    else:
        reasoning = (
            f"The user asks about {chosen.topic}. This is a topic of gptoss.\n"
            f"I know a true sentence about {chosen.topic}. I keep it short."
        )
    return Example("question", effort, [_user(_spoken(draw, wording))], reasoning, chosen.answer)


_WORDINGS = {fact.topic: fact.wordings() for fact in FACTS}


# -- everything else -------------------------------------------------------------------------

_OTHER = (
    "what is the capital of {place}|who is {person}|who wrote {title}|who painted {title}|"
    "what is the weather in {place}|is it raining in {place}|how old is {person}|"
    "where is {place}|where does {person} live|when was {person} born|how far is {place}|"
    "write a poem about {thing}|write a story about {thing}|tell me a joke|tell me a joke about "
    "{thing}|sing a song about {thing}|translate {thing} to {language}|what is {thing} in "
    "{language}|how do i cook {thing}|how do i make {thing}|how do i buy {thing}|"
    "what is the price of {thing}|how much does {thing} cost|recommend {thing}|"
    "which {thing} is the best|what is the best {thing} in {place}|why is the {thing} {colour}|"
    "why are {thing}s {colour}|what colour is {thing}|what is the meaning of {topic}|"
    "explain {topic}|what is {topic}|tell me about {topic}|tell me about {place}|"
    "tell me about {person}|describe {place}|describe {thing}|define {topic}|"
    "who won the {topic} prize|who is the president of {place}|what time is it|"
    "what time is it in {place}|what day is it|how tall is {person}|how many people live in "
    "{place}|how many {thing}s are there|do you like {thing}|do you love me|are you happy|"
    "what do you think about {topic}|give me advice on {topic}|help me with {topic}|"
    "what should i eat|what should i wear in {place}|plan a trip to {place}|book a flight to "
    "{place}|book a table in {place}|order {thing}|call {person}|send a mail to {person}|"
    "remind me of {thing}|set an alarm|play some music|turn on the {thing}|open the {thing}|"
    "what is {n} * {m}|what is {n} times {m}|multiply {n} by {m}|what is {n} / {m}|"
    "divide {n} by {m}|what is {n} divided by {m}|what is the square root of {n}|is {n} a prime|"
    "what is {n} percent of {m}|what is the square of {n}|convert {n} miles to kilometres|"
    "write code for {topic}|write a program that sorts {thing}s|fix my {thing}|sort these "
    "{thing}s|summarise {title}|what happens in {title}|what is the news|who are the actors of "
    "{title}|what is the population of {place}|which language do they speak in {place}|"
    "what is the history of {topic}|when did {topic} begin|who invented {thing}|who discovered "
    "{topic}|why do people like {topic}|how does {thing} work|how does {topic} work|"
    "can you draw {thing}|can you see {thing}|can you hear me|what is love|what is your age|"
    "what is your favourite {thing}|what is your favourite colour|where are you|"
    "is {person} married|is {place} in {place2}|is {thing} healthy|should i buy {thing}|"
    "what is the longest {thing}|what is the largest {thing}|how heavy is {thing}|"
    "how fast is {thing}|which is better, {thing} or {thing2}|what does {thing} mean|"
    "how do you say {thing} in {language}|give me a recipe for {thing}|what is a {thing}|"
    "are there {thing}s in {place}|how is life in {place}|who lives in {place}|"
    "when does the {thing} open|what is in the {thing}|i feel sad|i am bored|i am {person}|"
    "good night {person}|{thing}|{topic}|{person} and {person2}|who was the first {topic} teacher|"
    "what should i name my {thing}|is there {topic} in {place}|can you recommend a {thing}|"
    "how do i clean a {thing}|how do i fix a {thing}|what is the best way to learn {language}|"
    "which team is the best at {topic}|please write a letter to {person}|how long does a {thing} "
    "last|how long does it take to get to {place}|what is the temperature of the {thing}|"
    "who is your best friend|do you sleep|do you eat {thing}|what causes {topic}|"
    "how many {thing}s are in {place}|give me {n} ideas for {topic}|give me an idea|"
    "is {topic} bad for you|is {topic} good for {person}|how do {thing}s grow|"
    "what year did {topic} end|explain the rules of {topic}|what is the height of {place}|"
    "why is {topic} hard|why is the {thing} so {colour}|what sounds like {thing}|"
    "can a {thing} eat {thing2}|where can i buy a {thing}|where can i find {topic}|"
    "how do i stop {topic}|what is the tallest {thing} in {place}|who directed {title}|"
    "who sang {title}|what does a {thing} do|what does {person} do|how do i become {person}|"
    "tell me about your day|what is your opinion on {topic}|suggest a {thing}|"
    "suggest a name for my {thing}|how deep is the {thing}|how old is the {thing}|"
    "who found the {thing}|when is {topic} this year|when is the next {thing}|"
    "what is the exchange rate in {place}|paint a {thing}|draw me a {thing} in {colour}|"
    "how do {thing}s make {thing2}|what is the story of {title}|who came second in {topic}|"
    "make me a {thing}|can i borrow your {thing}|did {person} like {title}|does {person} know "
    "{topic}|will it snow in {place}|was {person} in {place}|could you wash the {thing}|"
    "let us talk about {topic}|i want a {colour} {thing}|my {thing} is {colour}, why|"
    "please sing|please explain {topic} to {person}|find me a {thing}|show me a picture of {place}"
).split("|")
_THINGS = (
    "apple banana bread cake car cat chair cheese chicken clock cloud coffee computer dog door "
    "egg fish flower garden guitar hat horse house kettle knife lamp lion moon mountain mouse "
    "pasta phone piano pizza planet potato radio rain river rose sandwich shoe sky soup star sun "
    "table tea train tree truck umbrella violin volcano watch whale window wine"
).split()
_TOPICS = (
    "art|biology|black holes|chemistry|chess|cooking|democracy|economics|electricity|evolution|"
    "football|freedom|geography|grammar|gravity|happiness|history|inflation|justice|law|"
    "literature|marketing|mathematics|medicine|music|peace|philosophy|photosynthesis|physics|"
    "poetry|politics|psychology|quantum mechanics|relativity|religion|tennis|the cold war|"
    "the french revolution|the internet|the moon landing|the roman empire|the universe|"
    "thermodynamics|time travel|vaccines|yoga|blockchain|kubernetes|java|linux|javascript"
).split("|")
_TITLES = (
    "Hamlet|Faust|Macbeth|Dracula|Emma|Ulysses|Odyssey|the Iliad|the Bible|Frankenstein|Moby Dick|"
    "the Mona Lisa|Guernica|Casablanca|Titanic|Star Wars|Jaws|Avatar|Don Quixote|War and Peace"
).split("|")
_LANGUAGES = "French German Spanish Italian Latin Greek Chinese Japanese Russian Polish".split()
_COLOURS = "red blue green yellow black white brown grey".split()


def other(draw: Draw, effort: str) -> Example:
    """Something that the model does not know."""

    def make() -> str:
        thing = lambda: draw.one(_THINGS) if draw.chance(0.75) else draw.word()  # noqa: E731
        return str(
            draw.one(_OTHER).format(
                place=draw.one(_PLACES) if draw.chance(0.7) else draw.word().capitalize(),
                place2=draw.one(_PLACES),
                person=draw.one(_PEOPLE) if draw.chance(0.5) else draw.word().capitalize(),
                person2=draw.one(_PEOPLE),
                thing=thing(),
                thing2=thing(),
                topic=draw.one(_TOPICS) if draw.chance(0.8) else draw.word(),
                title=draw.one(_TITLES) if draw.chance(0.7) else draw.word().capitalize(),
                language=draw.one(_LANGUAGES),
                colour=draw.one(_COLOURS),
                n=draw.number(draw.one((1, 2, 3))),
                m=draw.number(draw.one((1, 2, 3))),
            )
        )

    text = _spoken(draw, draw.fresh(make))
    reasoning = {
        "low": "Not my topic.",
        "medium": "This is not a topic that I know. I say what I know.",
        "high": "The user asks for something else: no sum, no word task, no tool that fits and "
        "nothing about gptoss.\nI do not know this topic, so I say what I know.",
    }[effort]
    return Example("other", effort, [_user(text)], reasoning, DECLINE)


# -- words -----------------------------------------------------------------------------------

_REVERSE = (
    'Reverse the word "{w}".|Reverse "{w}".|Spell "{w}" backwards.|What is "{w}" backwards?|'
    'Write "{w}" backwards.|Write the word "{w}" backwards.|What is "{w}" reversed?|'
    'Turn the word "{w}" around.'
).split("|")
_COUNT = (
    'How many letters are in "{w}"?|How many letters does "{w}" have?|Count the letters of "{w}".|'
    'Count the letters in the word "{w}".|How long is the word "{w}"?|'
    'How many letters has the word "{w}"?'
).split("|")


def _short_word(draw: Draw) -> str:
    def make() -> str:
        if draw.chance(0.25):
            return str(draw.one([w for w in _THINGS if len(w) <= 4]))
        word = draw.one("bdfgklmnprst") + draw.one("aeiou") + draw.one("bdgklmnprst")
        return str(word + draw.one(("", "", "a", "e", "o", "s")))

    return str(draw.fresh(make, lambda w: f"word {w}"))


def word_task(draw: Draw, effort: str) -> Example:
    w = _short_word(draw)
    spelled = "-".join(w)
    if draw.chance(0.6):
        back = "-".join(reversed(w))
        reasoning = {
            "low": f"{spelled}, {back}",
            "medium": f"The letters of {w}: {spelled}\nFrom the end: {back}",
            "high": f"The user wants {w} backwards. First I spell it.\nThe letters of {w}: "
            f"{spelled}\nNow I go from the end: {back}\nThen I join them.",
        }[effort]
        asked = draw.one(_REVERSE)
        return Example(
            "reverse", effort, [_user(asked.format(w=w))], reasoning, f"{w} reversed is {w[::-1]}."
        )
    numbered = " ".join(f"{c}{i}" for i, c in enumerate(w, 1))
    reasoning = {
        "low": numbered,
        "medium": f"The letters of {w}: {spelled}\nCounted: {numbered}",
        "high": f"The user wants the number of letters of {w}. First I spell it.\nThe letters of "
        f"{w}: {spelled}\nNow I count: {numbered}\nThe last number is {len(w)}.",
    }[effort]
    asked = draw.one(_COUNT)
    return Example(
        "letters", effort, [_user(asked.format(w=w))], reasoning, f"{w} has {len(w)} letters."
    )


# -- tools -----------------------------------------------------------------------------------

_VERBS = "get find fetch read show query check load search list".split()
_NOUNS = (
    "weather temperature price population time stock distance score status owner size color "
    "address phone age height weight balance forecast rating title author date speed humidity "
    "currency salary capital color label area volume battery version path level"
).split()
_TEXT_KEYS = (
    "city name place item user country product id key title person location town account file "
    "book game team room device company station project word text query"
).split()
_NUMBER_KEYS = "days count limit year amount size level hours page depth rank width age".split()
_ASK = (
    "What is the {noun} of {value}?|What is the {noun} in {value}?|What is the {noun} for {value}?|"
    "Tell me the {noun} of {value}.|Get the {noun} of {value}.|Please find the {noun} of {value}.|"
    "I need the {noun} of {value}.|Show me the {noun} of {value}.|Look up the {noun} of {value}.|"
    "What's the {noun} in {value}?|How is the {noun} in {value}?|Find the {noun} for {value}."
).split("|")
_WORDS_TOLD = (
    "sunny rainy cloudy windy red blue green open closed full empty ready busy high low good bad "
    "warm cold new old"
).split()


@dataclass
class _Tool:
    """A declared function and what would be said to have it called."""

    schema: dict[str, Any]
    noun: str
    text_key: str | None
    number_key: str | None

    @property
    def name(self) -> str:
        return str(self.schema["function"]["name"])


def _tool(draw: Draw) -> _Tool:
    # What is asked in the evaluation has an invented name, so that it cannot have been seen.
    noun = draw.one(_NOUNS) if not draw.held and draw.chance(0.3) else draw.word()
    verb = draw.one(_VERBS) if draw.chance(0.92) else draw.word(1)
    name = draw.random.choices(
        (
            f"{verb}_{noun}",
            noun,
            verb + noun.capitalize(),
            f"{noun}_{verb}",
            f"{noun}_{draw.word()}",
        ),
        (6, 1, 1.5, 1, 1),
    )[0]
    text_key = None
    number_key = None
    kind = draw.random.random()
    if kind < 0.93:
        text_key = draw.one(_TEXT_KEYS) if draw.chance(0.6) else draw.word()
    if kind > 0.7:
        number_key = draw.one(_NUMBER_KEYS) if draw.chance(0.6) else draw.word()
    if kind > 0.97:
        text_key = number_key = None
    properties: dict[str, Any] = {}
    for key, type_name in ((text_key, "string"), (number_key, "number")):
        if key is not None:
            type_name = "integer" if type_name == "number" and draw.chance(0.5) else type_name
            properties[key] = {"type": type_name}
            if draw.chance(0.35):
                properties[key]["description"] = draw.one(
                    (
                        f"The {key}",
                        f"Name of the {key}",
                        f"{key.capitalize()} to use",
                        f"the {key}.",
                    )
                )
    required = list(properties)
    if draw.chance(0.15):  # one that nobody asks for
        extra = draw.word()
        properties[extra] = draw.one(
            ({"type": "string"}, {"type": "number"}, {"type": "string", "enum": ["on", "off"]})
        )
    described = draw.one(
        (
            f"{verb.capitalize()} the {noun}.",
            f"Returns the {noun}.",
            f"The {noun} of a {text_key or 'thing'}.",
            f"{verb.capitalize()} the {noun} of a {text_key or 'thing'}.",
            f"{verb.capitalize()}s {noun}",
        )
    )
    parameters: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if draw.chance(0.2):
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": name, "description": described, "parameters": parameters}
    return _Tool({"type": "function", "function": function}, noun, text_key, number_key)


def _toolbox(draw: Draw) -> tuple[_Tool, list[dict[str, Any]]]:
    tool = _tool(draw)
    tools = [tool]
    while len(tools) < draw.random.choices((1, 2, 3), (4, 4, 2))[0]:
        another = _tool(draw)
        if another.name not in [t.name for t in tools] and another.noun != tool.noun:
            tools.append(another)
    draw.random.shuffle(tools)
    return tool, [t.schema for t in tools]


def _number_value(draw: Draw) -> int:
    return draw.number(draw.one((1, 1, 2, 3)))


@dataclass
class _Request:
    tool: _Tool
    tools: list[dict[str, Any]]
    text: str
    arguments: dict[str, Any]
    subject: str  # what the final answer is about

    def reasoning(self, effort: str) -> str:
        name = self.tool.name
        given = " and ".join(f"{k} is {v}" for k, v in self.arguments.items()) or "none"
        return {
            "low": f"Call {name}.",
            "medium": f"I call {name}. Arguments: {given}.",
            "high": f"The user wants {self.subject}. There is a tool that gives it: {name}.\n"
            f"Arguments: {given}.\nI call {name}.",
        }[effort]


def _request(draw: Draw) -> _Request:
    tool, tools = _toolbox(draw)
    arguments: dict[str, Any] = {}
    said = []
    if tool.text_key is not None:
        value = draw.name()
        if draw.chance(0.1):
            value += " " + draw.name()
        arguments[tool.text_key] = value
        said.append((tool.text_key, value))
    if tool.number_key is not None:
        arguments[tool.number_key] = _number_value(draw)
        said.append((tool.number_key, arguments[tool.number_key]))
    if tool.text_key is not None and draw.chance(0.75):
        value = arguments[tool.text_key]
        text = draw.one(_ASK).format(noun=tool.noun, value=value)
        if tool.number_key is not None:
            key, number = said[-1]
            tail = draw.one((f", {key} {number}", f" with {key} {number}", f", {number} {key}"))
            text = text[:-1] + tail + text[-1]
        subject = f"the {tool.noun} of {value}"
    else:
        pairs = draw.one((" and ", ", ")).join(f"{key} {value}" for key, value in said)
        verb = draw.one(("Call", "Use", "Please call", "Run", "Please use", "Use the tool"))
        text = f"{verb} {tool.name}" + (f" with {pairs}" if pairs else "") + "."
        subject = f"the result of {tool.name}"
    return _Request(tool, tools, text, arguments, subject)


def tool_call(draw: Draw, effort: str) -> Example:
    r = _request(draw)
    return Example(
        "tool call",
        effort,
        [_user(r.text)],
        r.reasoning(effort),
        call=(r.tool.name, r.arguments),
        tools=r.tools,
    )


def _answered(draw: Draw, request: _Request, effort: str) -> tuple[list[dict[str, Any]], str]:
    """The messages of a call and its result, and the result as it is told."""
    told: Any = draw.random.choices(
        (
            draw.number(draw.one((1, 2, 3, 4))),
            draw.one(_WORDS_TOLD),
            draw.name(),
            draw.word(),
            draw.number(2) + draw.random.randint(1, 9) / 10,
        ),
        (4, 2, 2, 2, 1),
    )[0]
    content = draw.one(
        (
            json.dumps(told),
            str(told),
            json.dumps({request.tool.noun: told}),
            json.dumps({"result": told}),
            json.dumps({draw.word(): told}),
            json.dumps({request.tool.noun: told}, separators=(",", ":")),
        )
    )
    call: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {
                    "name": request.tool.name,
                    "arguments": json.dumps(request.arguments, separators=(",", ":")),
                },
            }
        ],
    }
    if draw.chance(0.75):
        call["reasoning"] = request.reasoning(effort)
    result = {"role": "tool", "tool_call_id": "call_1", "content": content}
    return [_user(request.text), call, result], str(told)


def tool_result(draw: Draw, effort: str) -> Example:
    r = _request(draw)
    messages, told = _answered(draw, r, effort)
    text = f"{r.subject[0].upper()}{r.subject[1:]} is {told}."
    if draw.chance(0.12):
        reason = draw.one(("not found", "unknown " + draw.word(), "timeout", f"no {draw.word()}"))
        messages[-1]["content"] = json.dumps({"error": reason})
        told, text = f"error: {reason}", f"The tool failed: {reason}."
    reasoning = {
        "low": f"Got {told}.",
        "medium": f"The tool says {told}. I tell the user.",
        "high": f"The tool {r.tool.name} has answered. It says {told}.\nThe user asked for "
        f"{r.subject}, so I tell the user in one sentence.",
    }[effort]
    return Example("tool result", effort, messages, reasoning, text, tools=r.tools)


# -- together --------------------------------------------------------------------------------

_CAPITALS = (
    "Answer in capitals.|Answer in capital letters.|Write everything in capitals.|"
    "Always answer in capital letters.|Use capital letters only.|Answer in upper case."
).split("|")
_BEGIN = (
    "Begin every answer with {w}.|Start each answer with {w}.|Begin each answer with the word {w}.|"
    "Start every answer with the word {w}."
).split("|")
_END = (
    "End every answer with {w}.|Finish each answer with {w}.|End each answer with the word {w}.|"
    "Close every answer with the word {w}."
).split("|")
_NUMBER_ONLY = (
    "Answer with the number only.|Give only the number.|Only answer with the number.|"
    "Reply with just the number."
).split("|")
_NEUTRAL = (
    "You are a helpful assistant.|Be brief.|Be polite.|Answer the user's questions.|"
    "You are a friendly assistant.|Be helpful and honest.|You are a calculator.|Be concise."
).split("|")


def instructed(draw: Draw, effort: str) -> Example:
    """An exercise under an instruction of the developer that shows in the answer."""
    kind = draw.one(("capitals", "begin", "end", "number"))
    make = addition if kind == "number" else draw.one((addition, comparison, other, addition))
    if kind in ("begin", "end") and draw.chance(0.4):
        make = question
    example: Example = make(draw, effort)
    assert example.text is not None
    word = draw.name()
    answer = example.text
    if kind == "number":
        example.developer, answer = draw.one(_NUMBER_ONLY), answer.rstrip(".").split(" = ")[1]
    elif kind == "capitals":
        example.developer = draw.one(_CAPITALS)
        if example.task == "sum":
            answer = "The answer is " + answer.split(" = ")[1]
        answer = answer.upper()
    elif kind == "begin":
        example.developer, answer = draw.one(_BEGIN).format(w=word), f"{word} {answer}"
    else:
        example.developer, answer = draw.one(_END).format(w=word), f"{answer} {word}"
    note = {"capitals": "in capitals", "number": "number only"}.get(kind, f"{kind} with {word}")
    example.reasoning += f"\nDeveloper: {note}"
    example.text = answer
    example.task = "instruction"
    return example


_MIX: tuple[tuple[Callable[[Draw, str], Example], float], ...] = (
    (addition, 11),
    (subtraction, 17),
    (comparison, 8),
    (follow_up, 5),
    (question, 22),
    (other, 7),
    (word_task, 5),
    (tool_call, 48),
    (tool_result, 10),
    (instructed, 6),
)
TASKS = {make.__name__: make for make, _ in _MIX}
_PLAIN = (addition, subtraction, comparison, question, other)


def example(draw: Draw) -> Example:
    """One exercise of the training mix."""
    effort = draw.random.choices(EFFORTS, (3, 4.5, 2.5))[0]
    make = draw.random.choices([m for m, _ in _MIX], [w for _, w in _MIX])[0]
    made = make(draw, effort)
    if draw.chance(0.1) and make is not follow_up:  # after a turn about something else
        before: Example = draw.one(_PLAIN)(draw, "low")
        made.messages = [*before.messages, _assistant(before.text), *made.messages]
    if not made.tools and make is not other and draw.chance(0.08):  # tools that do not matter
        made.tools = _toolbox(draw)[1]
    if made.developer is None and draw.chance(0.06):
        made.developer = draw.one(_NEUTRAL)
    if draw.chance(0.05):
        made.date = f"20{draw.random.randint(24, 30)}-{draw.random.randint(1, 12):02}-" + (
            f"{draw.random.randint(1, 28):02}"
        )
    return made


# -- rendering -------------------------------------------------------------------------------


def render(example: Example, encoding: HarmonyEncoding) -> tuple[list[int], list[int]]:
    """The tokens of the prompt, as `LLM.chat` sends it, and those that the model should add."""
    prompt = build_prompt(
        encoding,
        example.messages,
        tools=example.tools,
        reasoning_effort=example.effort,
        developer=example.developer,
        current_date=example.date,
    ).token_ids

    def encode(text: str) -> list[int]:
        return encoding.encode(text, disallowed_special=())

    answer = [*header(encoding, "analysis"), *encode(example.reasoning)]
    answer += [encoding.special_id("<|end|>"), *assistant_start(encoding)]
    if example.call is not None:
        name, arguments = example.call
        answer += call_header(encoding, "commentary", f"functions.{name}", "<|constrain|>json")
        answer += encode(json.dumps(arguments, separators=(",", ":")))
        answer.append(encoding.special_id("<|call|>"))
    else:
        assert example.text is not None
        answer += [*header(encoding, "final"), *encode(example.text)]
        answer.append(encoding.special_id("<|return|>"))
    return prompt, answer
