"""The demo's conversations, made from random numbers: sums, questions, words, and the training mix.

Tools have their own module, `tool_tasks`.
"""

# Long lists read better as text.
# ruff: noqa: SIM905

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from draws import (
    EFFORTS,
    LANGUAGES,
    PEOPLE,
    PLACES,
    THINGS,
    Draw,
    Example,
    assistant,
    held_out,
    user,
)
from facts import FACTS, Fact
from tool_tasks import (
    calculator,
    python_call,
    python_result,
    too_large,
    tool_call,
    tool_result,
    toolbox,
    unfit_request,
)

from gptoss.chat.messages import (
    assistant_start,
    build_prompt,
    call_fields,
    call_header,
    header,
)
from gptoss.harmony import HarmonyEncoding

DECLINE = (
    "I am a demo model and only know sums, comparisons, short words, tools and questions about "
    "gptoss."
)


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


def _compared(a: int, b: int) -> str:
    """Two numbers by their length, or digit by digit until one is larger."""
    x, y = str(a), str(b)
    if len(x) != len(y):
        return f"{len(x)} digits and {len(y)} digits"
    steps = []
    for p, q in zip(x, y, strict=True):
        steps.append(f"{p}{'=' if p == q else '<' if p < q else '>'}{q}")
        if p != q:
            break
    return ", ".join(steps)


def _worked(a: int, b: int, sign: str, effort: str) -> str:
    task = f"{a}{sign}{b}"
    if sign == "-":  # the smaller from the larger
        task += f": {_compared(a, b)}, so "
        if a < b:
            a, b = b, a
            task += "minus "
        task += f"{a}-{b}"
    steps, values = _sum_steps(a, b) if sign == "+" else _difference_steps(a, b)
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
        if kind == "-" and digits is None and draw.chance(0.3):
            text = str(pair[0])
            if draw.chance(0.5):  # alike in their first digits
                kept = text[: draw.random.randint(1, len(text))]
                pair[1] = int(kept + "".join(draw.one("0123456789") for _ in text[len(kept) :]))
            else:  # zeros to borrow over
                pair[0] = int(text[0] + "".join(draw.one(f"00{c}") for c in text[1:]))
        return pair[0], pair[1]

    return draw.fresh(make, lambda pair: f"{kind} {pair[0]} {pair[1]}")  # type: ignore[no-any-return]


def addition(draw: Draw, effort: str, digits: int | None = None) -> Example:
    a, b = _pair(draw, "+", digits)
    return Example(
        "sum",
        effort,
        [user(draw.one(_SUMS).format(a=a, b=b))],
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
        [user(draw.one(_DIFFERENCES).format(a=a, b=b))],
        _worked(a, b, "-", effort),
        f"{a} - {b} = {a - b}.",
    )


def follow_up(draw: Draw, effort: str) -> Example:
    """A second sum that starts from the first one's result."""
    first = addition(draw, effort) if draw.chance(0.7) else subtraction(draw, effort)
    assert first.text is not None
    a = int(first.text.rstrip(".").split(" = ")[1])
    if not 0 <= a < 10**4:
        return follow_up(draw, effort)
    sign = "+" if draw.chance(0.6) else "-"
    b = draw.fresh(lambda: draw.number(draw.one((1, 2, 2, 3))), lambda b: f"{sign} {a} {b}")
    wording = draw.one(_MORE if sign == "+" else _LESS).format(b=b)
    return Example(
        "follow-up",
        effort,
        [*first.messages, assistant(first.text), user(wording)],
        _worked(a, b, sign, effort),
        f"{a} {sign} {b} = {a + b if sign == '+' else a - b}.",
    )


def comparison(draw: Draw, effort: str) -> Example:
    a, b = _pair(draw, "?")
    if draw.chance(0.3) and a != b:  # alike but for the last digits
        near = a + draw.random.randint(-9, 9)
        if near >= 0 and held_out(f"? {a} {near}") == draw.held:
            b = near
    larger = draw.chance(0.55)
    question = draw.one(_LARGER if larger else _SMALLER).format(a=a, b=b)
    compare = "compare" in question.lower()
    sign = "=" if a == b else "<" if a < b else ">"
    reasoning = f"{a} and {b}: {_compared(a, b)}" + (", " if effort == "low" else "\n")
    reasoning += f"so {a}{sign}{b}"
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
    return Example("comparison", effort, [user(question)], reasoning, text)


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
    "cpu": "CPU",
    "gpu": "GPU",
    "gpus": "GPUs",
    "cuda": "CUDA",
    "metal": "Metal",
    "json": "JSON",
    "api": "API",
    "http": "HTTP",
    "openai": "OpenAI",
    "pytorch": "PyTorch",
    "windows": "Windows",
    "linux": "Linux",
    "macos": "macOS",
    "kv": "KV",
    "i": "I",
}
_BEFORE = (
    "Please tell me: |Quick question: |Hi! |Tell me, |One more: |Hello, |Can you tell me: |So, |"
    "OK, |And |Please, |I want to know: |Question: |Hey, |Well, |Sorry, "
).split("|")
_BEHIND = " please| in gptoss| here| with gptoss| exactly| then| now| again".split("|")
_SMALL = "the a an do does can i is are it of to".split()
_IMPERATIVES = (
    "explain describe define tell list name show load introduce hello hi hey good thank thanks "
    "many bye goodbye see ciao great nice perfect"
).split()


def _spoken(draw: Draw, wording: str) -> str:
    """A wording as people type it."""
    words = wording
    if draw.chance(0.05):  # in haste
        small = [word for word in words.split() if word in _SMALL]
        if small and len(words.split()) > 3:
            words = f" {words} ".replace(f" {draw.one(small)} ", " ", 1).strip()
    if draw.chance(0.8):
        for plain, proper in _SPELLINGS.items():
            words = f" {words} ".replace(f" {plain} ", f" {proper} ").strip()
    before = draw.one(_BEFORE) if draw.chance(0.12) else ""
    if draw.chance(0.5 if before else 0.85):
        words = words[0].upper() + words[1:]
    if len(words.split()) > 2 and draw.chance(0.05):
        words += draw.one(_BEHIND)
    if words.split()[0].lower() in _IMPERATIVES:
        words += draw.one((".", ".", "", "!"))
    else:
        words += draw.one(("?", "?", "?", ""))
    return before + words


_FIXED = json.loads(Path(__file__).with_name("questions.json").read_text(encoding="utf-8"))
_ASKED = {entry["question"].rstrip("?.!").lower(): entry["held_out"] for entry in _FIXED}


def question(draw: Draw, effort: str, fact: Fact | None = None) -> Example:
    def make() -> tuple[Fact, str]:
        while True:
            chosen = fact or draw.one(FACTS)
            wording = draw.one(_WORDINGS[chosen.topic])
            if _ASKED.get(wording, held_out(wording)) == draw.held:
                return chosen, wording

    chosen, wording = make()
    if effort == "low":
        reasoning = f"Topic: {chosen.topic}."
    elif effort == "medium":
        reasoning = f"The user asks about {chosen.topic}. I know this."
    else:
        reasoning = (
            f"The user asks about {chosen.topic}. This is a topic of gptoss.\n"
            f"I know a true sentence about {chosen.topic}. I keep it short."
        )
    return Example("question", effort, [user(_spoken(draw, wording))], reasoning, chosen.answer)


def fixed_question(draw: Draw, effort: str) -> Example:
    """One of the list that is written down."""
    entry = draw.one(_FIXED)
    return Example("fixed question", effort, [user(entry["question"])], "", entry["answer"])


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
_COLOURS = "red blue green yellow black white brown grey".split()


# Questions of everyday words, whatever sense they make.
_FRAMES = (
    "why do {adj} {nouns} {verb}|how do {nouns} {verb} a {noun}|do {adj} {nouns} {verb}|"
    "can {nouns} {verb} a {noun}|are {adj} {nouns} {adj2}|is a {noun} {adj}|is this {noun} {adj}|"
    "what is a {adj} {noun}|which {noun} is the most {adj}|how do i {verb} a {noun}|"
    "should i {verb} my {noun}|could you {verb} my {noun}|will you {verb} this {noun} for me|"
    "please {verb} the {noun}|{verb} this {noun}|{verb} my {adj} {noun}|show me {n} {adj} {nouns}|"
    "list all {nouns} of {place}|list some {adj} {nouns}|tell me who {verb}s {nouns}|"
    "who {verb}s the {noun}|what {verb}s a {noun}|what will {person} {verb}|"
    "when does my {noun} {verb}|how much {noun} does {person} {verb}|"
    "how many {nouns} can a {noun2} {verb}|what is the opposite of {adj}|my {noun} is {adj}|"
    "the {noun} of {person} is {adj}|is the {noun} {adj} in {place}|what should {person} {verb}|"
    "where do {nouns} {verb}|where does a {noun} {verb}|who was the first to {verb} a {noun}|"
    "give me a {adj} {noun}|would you {verb} a {noun}|did {nouns} {verb} in {place}|"
    "are there {adj} {nouns}|is it {adj} to {verb}|is it {adj} to {verb} a {noun}|"
    "what happens if i {verb} a {noun}|did {person} {verb} the {noun}|what do {nouns} {verb}|"
    "how long do {nouns} {verb}|what is {noun} for|which {nouns} {verb}|"
    "explain how {nouns} {verb}|explain the {noun} to me|say something {adj}|whose {noun} is this|"
    "is {person} {adj}|does {person} {verb}|does the {noun} {verb} {adj} {nouns}|"
    "which {noun} do {nouns} {verb}|what color is a {noun}|who is the {adj} {noun}|"
    "how {adj} is the {noun}|how {adj} is {person}|why is my {noun} {adj}|why is {person} {adj}|"
    "why can {nouns} {verb}|why does a {noun} {verb}|am i {adj}|should {nouns} {verb}|"
    "was the {noun} {adj}|were the {nouns} {adj}|has {person} a {noun}|have you a {noun}|"
    "i would like to {verb} a {noun}|i think that {nouns} are {adj}|let me {verb} the {noun}|"
    "compare {nouns} and {nouns2}|which is more {adj}, a {noun} or a {noun2}|"
    "what is the name of the {adj} {noun}|how often should i {verb} the {noun}|teach me to {verb}|"
    "i want to {verb}|can i {verb} here|must i {verb} the {noun}|the {adj} {noun}|{adj} {nouns}|"
    "{verb} {adj} {nouns}|a {noun} and a {noun2}"
).split("|")
_NOUNS = (
    "actor army baby bakery ball bank basket beach bear beard bed bee beer bell bicycle bird "
    "blanket boat bone bottle bowl box boy bridge brother brush bus butcher butter button camel "
    "candle candy carpet castle cave chef child church city coat coin couch cow crown cup curtain "
    "customer dance daughter dentist desert desk diamond dinner doctor dream dress driver drum "
    "duck eagle ear elephant engine eye family farm farmer father field film finger fire floor "
    "forest fox friend frog game girl glove goat gold grandmother grass hair hand heart helmet "
    "hill holiday hospital hotel ice insect island jacket job joke judge juice kid king kitchen "
    "knee ladder lake leaf leg lemon letter library lunch market marriage mayor meal milk mirror "
    "monkey mother mouth museum nail neighbour neck nest nose novel nurse ocean office onion "
    "orange oven owl paint pan parent parrot party pen pencil pepper photo picture pig pilot "
    "pillow plant plate player pocket poem poet pool prison queen rabbit restaurant rice ring road "
    "roof room rope sailor salad salt school sea shark sheep ship shirt shop sister skirt sleep "
    "smile snake sock song spider spoon stage stone storm street student sugar suitcase teacher "
    "team tiger toe tooth towel tower town toy uncle village visitor voice wall war water wedding "
    "wheel wife wing wolf wood wool zoo"
).split()
_DOING = (
    "bake bite bless borrow break breathe bring burn carry catch chase choose climb cut dance "
    "destroy dig draw dream drink drive drop earn eat enjoy enter explore fall feel fight fill "
    "find finish fold forget forgive fry grow hate hear hide hit hold hug hunt hurt jump keep kick "
    "kill kiss knit laugh lead leave lift like lose love marry measure meet mix need obey pack "
    "plant polish pray prefer protect pull push reach repair rest ride rise roast save see shake "
    "shave sing sit smell smile smoke spend squeeze steal study survive swim teach thank throw "
    "touch trade travel treat trust visit vote walk want warm wash watch wear win wish worry"
).split()
_LIKE = (
    "angry bad bald beautiful bitter blind boring brave bright calm cheap clean clever cold common "
    "cruel curious dangerous dark dead deep delicious dirty dry dull early easy empty evil "
    "expensive famous fat flat foreign fresh friendly funny gentle good green happy hard heavy "
    "honest hungry important jealous kind lazy lonely lucky mad modern narrow nervous noisy old "
    "pale polite poor pretty proud quiet rare red rich round rude sad safe salty scary sharp shy "
    "sick silent silly soft sour spicy strange strong stupid sweet tall thirsty tired ugly warm "
    "weak wet wild wise young"
).split()


def _strange(draw: Draw) -> str:
    """A question of a frame, at times with an invented word."""

    def word(known: list[str]) -> str:
        return str(draw.one(known)) if draw.chance(0.85) else draw.word()

    return str(
        draw.one(_FRAMES).format(
            noun=word(_NOUNS),
            noun2=word(_NOUNS),
            nouns=word(_NOUNS) + "s",
            nouns2=word(_NOUNS) + "s",
            verb=word(_DOING),
            adj=word(_LIKE),
            adj2=word(_LIKE),
            place=draw.one(PLACES),
            person=draw.one(PEOPLE) if draw.chance(0.7) else f"my {draw.one(_NOUNS)}",
            n=draw.number(1),
        )
    )


def other(draw: Draw, effort: str) -> Example:
    """Something that the model does not know."""

    def make() -> str:
        if draw.chance(0.5):
            return _strange(draw)
        thing = lambda: draw.one(THINGS) if draw.chance(0.75) else draw.word()  # noqa: E731
        return str(
            draw.one(_OTHER).format(
                place=draw.one(PLACES) if draw.chance(0.7) else draw.word().capitalize(),
                place2=draw.one(PLACES),
                person=draw.one(PEOPLE) if draw.chance(0.5) else draw.word().capitalize(),
                person2=draw.one(PEOPLE),
                thing=thing(),
                thing2=thing(),
                topic=draw.one(_TOPICS) if draw.chance(0.8) else draw.word(),
                title=draw.one(_TITLES) if draw.chance(0.7) else draw.word().capitalize(),
                language=draw.one(LANGUAGES),
                colour=draw.one(_COLOURS),
                n=draw.number(draw.one((1, 2, 3))),
                m=draw.number(draw.one((1, 2, 3))),
            )
        )

    text = _spoken(draw, draw.fresh(make))
    return Example("other", effort, [user(text)], _NOT_KNOWN[effort], DECLINE)


_NOT_KNOWN = {
    "low": "Not my topic.",
    "medium": "This is not a topic that I know. I say what I know.",
    "high": "The user asks for something else: no sum, no word task, no tool that fits and nothing "
    "about gptoss.\nI do not know this topic, so I say what I know.",
}


def unfit(draw: Draw, effort: str) -> Example:
    """Something for which there is no function among those that there are."""
    text, tools = unfit_request(draw)
    return Example("unfit", effort, [user(text)], _NOT_KNOWN[effort], DECLINE, tools=tools)


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
            return str(draw.one([w for w in THINGS if len(w) <= 4]))
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
            "reverse", effort, [user(asked.format(w=w))], reasoning, f"{w} reversed is {w[::-1]}."
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
        "letters", effort, [user(asked.format(w=w))], reasoning, f"{w} has {len(w)} letters."
    )


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
    (addition, 9),
    (subtraction, 24),
    (comparison, 18),
    (follow_up, 6),
    (too_large, 5),
    (question, 44),
    (other, 30),
    (unfit, 7),
    (word_task, 14),
    (tool_call, 42),
    (tool_result, 30),
    (calculator, 7),
    (python_call, 3),
    (python_result, 3),
    (instructed, 12),
)
_PLAIN = (addition, subtraction, comparison, question, other)


def example(draw: Draw) -> Example:
    """One exercise of the training mix."""
    effort = draw.random.choices(EFFORTS, (3, 5, 2))[0]
    make = draw.random.choices([m for m, _ in _MIX], [w for _, w in _MIX])[0]
    made = make(draw, effort)
    if draw.chance(0.1) and make is not follow_up:  # after a turn about something else
        before: Example = draw.one(_PLAIN)(draw, "low")
        made.messages = [*before.messages, assistant(before.text), *made.messages]
    if not made.tools and draw.chance(0.08):  # tools that do not matter
        tools = toolbox(draw)
        if make is not other or not any(_mentions(tool, made) for tool in tools):
            made.tools = tools
    if not made.tools and make is addition and draw.chance(0.05):  # small enough without it
        made.builtin = ["python"]
    if made.developer is None and draw.chance(0.06):
        made.developer = draw.one(_NEUTRAL)
    if draw.chance(0.05):
        made.date = f"20{draw.random.randint(24, 30)}-{draw.random.randint(1, 12):02}-" + (
            f"{draw.random.randint(1, 28):02}"
        )
    return made


def _mentions(tool: dict[str, Any], made: Example) -> bool:
    """Whether what is asked has a word of the tool's name."""
    asked = made.messages[-1]["content"].lower()
    name: str = tool["function"]["name"]
    return any(word in asked for word in name.lower().split("_"))


# -- rendering -------------------------------------------------------------------------------


def render(example: Example, encoding: HarmonyEncoding) -> tuple[list[int], list[int]]:
    """The tokens of the prompt, as `LLM.chat` sends it, and those that the model should add."""
    prompt = build_prompt(
        encoding,
        example.messages,
        tools=example.tools,
        builtin_tools=example.builtin,
        reasoning_effort=example.effort,
        developer=example.developer,
        current_date=example.date,
    ).token_ids

    def encode(text: str) -> list[int]:
        return encoding.encode(text, disallowed_special=())

    def called(arguments: dict[str, Any]) -> list[int]:
        text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        return [*encode(text), encoding.special_id("<|call|>")]

    if example.forced:
        assert example.call is not None
        name, arguments = example.call
        prompt = [*prompt, *call_header(encoding, *call_fields(f"functions.{name}"))]
        return prompt, called(arguments)
    answer = [*header(encoding, "analysis"), *encode(example.reasoning)]
    answer += [encoding.special_id("<|end|>"), *assistant_start(encoding)]
    if example.code is not None:
        answer += call_header(encoding, *call_fields("python"))
        answer += [*encode(example.code), encoding.special_id("<|call|>")]
    elif example.call is not None:
        name, arguments = example.call
        answer += [*call_header(encoding, *call_fields(f"functions.{name}")), *called(arguments)]
    else:
        assert example.text is not None
        answer += [*header(encoding, "final"), *encode(example.text)]
        answer.append(encoding.special_id("<|return|>"))
    return prompt, answer


def earlier_call(prompt: list[int], encoding: HarmonyEncoding) -> range:
    """Where in a prompt the model's own reasoning and call stand, whose result comes last.

    Empty unless the last turn has both: then they are what the model should have said there.
    """
    start, call = encoding.special_id("<|start|>"), encoding.special_id("<|call|>")
    own = assistant_start(encoding)
    ends = [i for i, token in enumerate(prompt) if token == call]
    if not ends:
        return range(0)
    starts = [i for i in range(ends[-1]) if prompt[i] == start][-2:]
    analysis = [*own, *header(encoding, "analysis")]
    if len(starts) < 2 or prompt[starts[0] : starts[0] + len(analysis)] != analysis:
        return range(0)
    return range(starts[0] + len(own), ends[-1] + 1)
