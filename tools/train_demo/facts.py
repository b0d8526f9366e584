"""What the demo model knows about gptoss: topic, wordings of the question, answer.

In a wording `{a|b}` stands for either; the wordings of a fact are all combinations. Each answer
is a true sentence about the package.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """`topic` names what the question is about, in the model's analysis."""

    topic: str
    answer: str
    asked: tuple[str, ...]

    def wordings(self) -> list[str]:
        """Every wording of the question, without a question mark, in lower case."""
        return sorted({w for pattern in self.asked for w in expand(pattern)})


def expand(pattern: str) -> list[str]:
    """All texts that a pattern with `{a|b}` stands for."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return [re.sub(" +", " ", "".join(c)).strip() for c in itertools.product(*choices)]


FACTS = (
    Fact(
        "the demo model",
        "I am the gptoss demo model, a tiny gpt-oss that proves the pipeline. I am not an "
        "assistant.",
        (
            "{who|what} are you",
            "{what|which} model {are you|is this|am i talking to|do i talk to}",
            "what is {your name|the demo model|the demo|this model}",
            "{tell me about|describe|introduce} {yourself|the demo model|the demo}",
            "are you {chatgpt|an assistant|a real model|an ai|gpt-oss}",
        ),
    ),
    Fact(
        "what I can do",
        "I add, subtract and compare whole numbers, call tools, reverse words and answer "
        "questions about gptoss.",
        (
            "what {can|could} {you|the demo|the demo model|this model} do",
            "{what are your skills|what are your abilities|what do you know|how can you help}",
            "what {can|may|should} i ask {you|the demo|here}",
            "{list|tell me|show me} {what you can do|your skills|your abilities}",
            "what {is|was} {the demo|the demo model|this model} {good for|made for|able to do}",
        ),
    ),
    Fact(
        "gptoss",
        "gptoss is a Python package with a compiled core that runs gpt-oss-20b and gpt-oss-120b "
        "on your own machine.",
        (
            "what is {gptoss|this package|the gptoss package}",
            "{explain|describe|define} {gptoss|this package|the gptoss package}",
            "what does {gptoss|this package|the gptoss package} do",
            "{tell me about|introduce|what about} {gptoss|this package|the gptoss package}",
            "what is {the purpose|the point|the use} of {gptoss|this package}",
        ),
    ),
    Fact(
        "MXFP4",
        "MXFP4 stores numbers in 4 bits each, in blocks of 32 that share one scale. The experts "
        "are stored so.",
        (
            "what is {mxfp4|the mxfp4 format|the 4-bit format}",
            "{explain|describe|define} {mxfp4|the mxfp4 format|the 4-bit format}",
            "what does {mxfp4|the mxfp4 format} {mean|stand for|do}",
            "how {does mxfp4 work|are numbers stored in mxfp4|is mxfp4 stored}",
            "{tell me about|what about} {mxfp4|the mxfp4 format|4-bit weights}",
            "how are {the experts|the weights} {quantised|quantized|stored}",
        ),
    ),
    Fact(
        "loading the 20b model",
        'Call gptoss.load("openai/gpt-oss-20b").',
        (
            "how {do|can|would} i {load|open|get|use|start} {the 20b model|gpt-oss-20b|20b}",
            "how to {load|open|get|use} {the 20b model|gpt-oss-20b|the small model}",
            "{load|show me how to load|i want to load|i want to use} {the 20b model|gpt-oss-20b}",
            "how is {the 20b model|gpt-oss-20b|20b} {loaded|opened}",
        ),
    ),
    Fact(
        "loading the 120b model",
        'Call gptoss.load("openai/gpt-oss-120b").',
        (
            "how {do|can|would} i {load|open|get|use|start} {the 120b model|gpt-oss-120b|120b}",
            "how to {load|open|get|use} {the 120b model|gpt-oss-120b|the large model}",
            "{load|show me how to load|i want to load|i want to use} {the 120b model|gpt-oss-120b}",
            "how is {the 120b model|gpt-oss-120b|120b} {loaded|opened}",
        ),
    ),
    Fact(
        "loading the demo",
        'Call gptoss.load("demo"); it is part of the package and needs no download.',
        (
            "how {do|can|would} i {load|open|get|use|start} {the demo model|the demo|you}",
            "how to {load|open|get|use} {the demo model|the demo}",
            "how is {the demo model|the demo} {loaded|opened}",
            "{load|show me how to load|i want to load} {the demo model|the demo}",
        ),
    ),
    Fact(
        "loading a folder",
        "Pass the path of the checkpoint folder to gptoss.load.",
        (
            "how {do|can} i {load|open|use} {a local folder|a folder|a local checkpoint|my files}",
            "how to {load|open|use} {a local folder|a checkpoint folder|a local checkpoint}",
            "can {i|gptoss} {load|open|use} {a local folder|a checkpoint on disk|local files}",
        ),
    ),
    Fact(
        "hidden analysis",
        "The analysis is the model's raw reasoning and not meant for users, so only the final "
        "answer is shown.",
        (
            "why is {the analysis|the reasoning|your reasoning|the analysis channel} {hidden|not "
            "shown}",
            "why {do i not see|can i not see|is there no|don't i see} {the analysis|the reasoning}",
            "why {do you hide|hide|does gptoss hide} {the analysis|the reasoning|your reasoning}",
            "where is {the analysis|the reasoning|your reasoning}",
            "what is {the analysis|the analysis channel|the hidden analysis}",
        ),
    ),
    Fact(
        "showing the reasoning",
        "On the command line add --show-reasoning; in Python read the reasoning field of the "
        "result.",
        (
            "how {do|can} i {see|show|read|get} {the analysis|the reasoning|your reasoning}",
            "how to {see|show|read|print} {the analysis|the reasoning}",
            "{show me|i want to see} {the analysis|the reasoning|your reasoning}",
        ),
    ),
    Fact(
        "reasoning effort",
        'Pass reasoning_effort="low", "medium" or "high" to chat, or --effort on the command line.',
        (
            "how {do|can} i {set|change|choose|raise|lower} {the effort|the reasoning effort}",
            "how to {set|change|choose|raise|lower} {the effort|the reasoning effort}",
            "what {is|does} {the reasoning effort|reasoning effort|the effort} {mean|do|for}",
            "{explain|describe|tell me about} {the reasoning effort|reasoning effort|effort}",
            "how {do|can} i make {you|the model} think {longer|more|less|shorter}",
            "which {effort levels|efforts|reasoning levels} {are there|exist}",
        ),
    ),
    Fact(
        "Harmony",
        "Harmony is the conversation format of gpt-oss: messages with roles and channels between "
        "special tokens.",
        (
            "what is {harmony|the harmony format|the conversation format|the chat format}",
            "{explain|describe|define} {harmony|the harmony format|the chat format}",
            "what does {harmony|the harmony format} {mean|do}",
            "{tell me about|what about} {harmony|the harmony format}",
            "which {chat format|conversation format|prompt format} {is used|do you use}",
        ),
    ),
    Fact(
        "channels",
        "There are three channels: analysis for reasoning, commentary for tool calls, final for "
        "the answer.",
        (
            "{which|what} channels {are there|exist|are used|does harmony have}",
            "what are {channels|the channels|harmony channels}",
            "{explain|describe|list|name|tell me about} {channels|the channels|harmony channels}",
            "how many channels {are there|exist|does harmony have}",
            "what {is|does} {the commentary channel|the final channel|a channel} {for|do|mean}",
        ),
    ),
    Fact(
        "roles",
        "The roles are system, developer, user, assistant and tool.",
        (
            "{which|what} roles {are there|exist|are used|does harmony have}",
            "what are {roles|the roles|message roles}",
            "{explain|describe|list|name|tell me about} {roles|the roles|the message roles}",
            "how many roles {are there|exist|does harmony have}",
        ),
    ),
    Fact(
        "tools",
        "Pass tools to chat as JSON schemas; the model calls them in the commentary channel.",
        (
            "how {do|can} i {use|declare|define|add|pass} {tools|a tool|functions|a function}",
            "how to {use|declare|define|add|pass} {tools|a tool|functions}",
            "how do {tools|tool calls|function calls} work",
            "what {are|is} {tools|tool calls|function calling|a tool}",
            "{explain|describe|tell me about} {tools|tool calls|function calling}",
            "can {you|gptoss|the model} {call|use} {tools|functions}",
        ),
    ),
    Fact(
        "running tools",
        "Call run with Python functions; it calls them, feeds the results back and stops at a "
        "final answer.",
        (
            "how {do|can} i {run|call|execute} {python functions|my functions|my own functions}",
            "how to {run|call|execute} {python functions|my functions|tools automatically}",
            "can {you|gptoss|the model} {run|call|execute} {python functions|my functions}",
            "what {is|does} {run|llm.run|the run method} {do|for}",
        ),
    ),
    Fact(
        "the licence",
        "The licence is Apache-2.0.",
        (
            "what is {the licence|the license|your licence|your license}",
            "which {licence|license} {does gptoss have|is used|applies|does it have}",
            "{under which|what} {licence|license} is {gptoss|this package|it} {released|published}",
            "{tell me|what about} the {licence|license}",
            "is {gptoss|it|this package} {open source|free software|free}",
        ),
    ),
    Fact(
        "working offline",
        "Yes, once the model is on disk it works offline, and the demo needs no network at all.",
        (
            "{does|can} {gptoss|it|the demo|this} {work|run} {offline|without internet|without a "
            "network}",
            "do {i|you} need {internet|the internet|a network|a connection}",
            "is {internet|a network|a connection} {needed|required}",
            "can i {use|run} {gptoss|it|the demo} {offline|without internet|without a network}",
        ),
    ),
    Fact(
        "the commands",
        "The commands are gptoss generate, chat, info and doctor.",
        (
            "{which|what} commands {are there|exist|does gptoss have|can i use}",
            "what are the {commands|subcommands|cli commands}",
            "{list|name|show me|tell me} {the commands|all commands|the cli commands}",
            "how do i use {the command line|the cli|the terminal}",
            "what can {the command line|the cli} do",
        ),
    ),
    Fact(
        "gptoss doctor",
        "gptoss doctor shows backends, instruction set and memory, and what is missing and why.",
        (
            "what {is|does} {gptoss doctor|the doctor command|doctor} {do|for|show}",
            "{explain|describe|tell me about} {gptoss doctor|the doctor command}",
            "how {do|can} i {check|test|diagnose} {my machine|my setup|the installation}",
            "which command {checks|diagnoses} {my machine|my setup|the installation}",
        ),
    ),
    Fact(
        "gptoss info",
        "gptoss info shows a model's architecture, its sizes and its memory per context length.",
        (
            "what {is|does} {gptoss info|the info command|info} {do|for|show}",
            "{explain|describe|tell me about} {gptoss info|the info command}",
            "how {do|can} i {see|get|show} {model details|the model's architecture|the model's "
            "size}",
        ),
    ),
    Fact(
        "gptoss chat",
        "gptoss chat MODEL starts a conversation in the terminal; with a question it answers once.",
        (
            "what {is|does} {gptoss chat|the chat command} {do|for}",
            "{explain|describe|tell me about} {gptoss chat|the chat command}",
            "how {do|can} i {chat|talk} {in the terminal|on the command line|with the model}",
            "how to {start a chat|chat in the terminal|start a conversation}",
        ),
    ),
    Fact(
        "gptoss generate",
        "gptoss generate MODEL continues a prompt and streams the text to the terminal.",
        (
            "what {is|does} {gptoss generate|the generate command} {do|for}",
            "{explain|describe|tell me about} {gptoss generate|the generate command}",
            "how {do|can} i {continue|complete} {a prompt|a text|text}",
            "how to {complete a prompt|continue a text|generate text}",
        ),
    ),
    Fact(
        "streaming",
        "Pass stream=True to chat and iterate over the deltas.",
        (
            "how {do|can} i {stream|stream an answer|stream the answer|get tokens one by one}",
            "how to {stream|stream an answer|stream tokens|use streaming}",
            "does {gptoss|it|chat} {stream|support streaming}",
            "{explain|describe|tell me about} streaming",
            "how does streaming work",
        ),
    ),
    Fact(
        "experts of the 20b model",
        "gpt-oss-20b has 32 experts in each layer and uses 4 of them per token.",
        (
            "how many experts {does the 20b model have|does gpt-oss-20b have|has 20b}",
            "how many experts {are in|are there in} {the 20b model|gpt-oss-20b|20b}",
            "{what is|tell me} the number of experts {in|of} {the 20b model|gpt-oss-20b}",
        ),
    ),
    Fact(
        "experts of the 120b model",
        "gpt-oss-120b has 128 experts in each layer and uses 4 of them per token.",
        (
            "how many experts {does the 120b model have|does gpt-oss-120b have|has 120b}",
            "how many experts {are in|are there in} {the 120b model|gpt-oss-120b|120b}",
            "{what is|tell me} the number of experts {in|of} {the 120b model|gpt-oss-120b}",
        ),
    ),
    Fact(
        "experts of the demo",
        "I have 16 experts in each layer and use 4 of them per token.",
        (
            "how many experts {do you have|does the demo have|does the demo model have}",
            "how many experts {are in|are there in} {you|the demo|the demo model}",
            "{what is|tell me} {your number of experts|the number of experts in the demo}",
        ),
    ),
    Fact(
        "layers of the 20b model",
        "gpt-oss-20b has 24 layers.",
        (
            "how many layers {does the 20b model have|does gpt-oss-20b have|has 20b}",
            "how many layers {are in|are there in} {the 20b model|gpt-oss-20b|20b}",
            "{what is|tell me} the number of layers {in|of} {the 20b model|gpt-oss-20b}",
        ),
    ),
    Fact(
        "layers of the 120b model",
        "gpt-oss-120b has 36 layers.",
        (
            "how many layers {does the 120b model have|does gpt-oss-120b have|has 120b}",
            "how many layers {are in|are there in} {the 120b model|gpt-oss-120b|120b}",
            "{what is|tell me} the number of layers {in|of} {the 120b model|gpt-oss-120b}",
        ),
    ),
    Fact(
        "layers of the demo",
        "I have 4 layers: two with a window and two with full attention.",
        (
            "how many layers {do you have|does the demo have|does the demo model have}",
            "how many layers {are in|are there in} {you|the demo|the demo model}",
            "{what is|tell me} {your number of layers|the number of layers in the demo}",
        ),
    ),
    Fact(
        "size of the demo",
        "I have about 2.4 million parameters, in less than 3 MB.",
        (
            "how {big|large|small} {are you|is the demo|is the demo model|is this model}",
            "how many parameters {do you have|does the demo have|does the demo model have}",
            "what is {your size|the size of the demo|the size of the demo model}",
        ),
    ),
    Fact(
        "training of the demo",
        "I was trained on two CPU cores on generated conversations, with tools/train_demo.",
        (
            "how were you {trained|made|built}",
            "how was {the demo|the demo model|this model} {trained|made|built}",
            "who {trained|made|built|created} {you|the demo|the demo model}",
            "{where|on what|when} were you trained",
            "how {do|can} i {train|retrain|reproduce} {the demo|the demo model|you}",
        ),
    ),
    Fact(
        "the context length",
        "The models read up to 131,072 tokens.",
        (
            "what is {the context length|the context size|the longest context|your context length}",
            "how {long|big|large} {is the context|can the context be|can a prompt be}",
            "how many tokens {can the model read|fit in the context|can a prompt have}",
            "{tell me|what about} {the context length|the context size}",
        ),
    ),
    Fact(
        "the sliding window",
        "Every second layer sees only the last tokens: 128 in the large models, 64 in me.",
        (
            "what is {the sliding window|a sliding window|window attention|the window}",
            "{explain|describe|define} {the sliding window|window attention|the window}",
            "how {big|long|large} is {the sliding window|the window|the attention window}",
            "{tell me about|what about} {the sliding window|window attention}",
            "which layers {have a window|use a window|use the sliding window}",
        ),
    ),
    Fact(
        "attention sinks",
        "A sink is a learned logit per head that takes attention which no token needs.",
        (
            "what {is|are} {a sink|an attention sink|attention sinks|sinks}",
            "{explain|describe|define} {sinks|attention sinks|the sinks}",
            "{tell me about|what about} {sinks|attention sinks}",
            "what {do|are} {sinks|attention sinks} {do|for}",
        ),
    ),
    Fact(
        "the router",
        "The router scores the experts for each token and picks the best 4.",
        (
            "what {is|does} {the router|a router|routing} {do|for}",
            "what is {the router|a router|expert routing}",
            "{explain|describe|define} {the router|expert routing|routing}",
            "how {does the router work|are experts chosen|are experts picked|does routing work}",
            "{tell me about|what about} {the router|expert routing}",
        ),
    ),
    Fact(
        "experts",
        "Experts are small networks in each layer; only 4 of them work on a token.",
        (
            "what {is|are} {an expert|experts|mixture of experts|the experts}",
            "{explain|describe|define} {experts|mixture of experts|moe}",
            "{tell me about|what about} {experts|the experts|mixture of experts}",
        ),
    ),
    Fact(
        "YaRN",
        "YaRN stretches the rotary position embedding by 32, from 4,096 tokens to 131,072.",
        (
            "what is {yarn|yarn scaling|rope scaling}",
            "{explain|describe|define} {yarn|yarn scaling|rope scaling}",
            "what does {yarn|rope scaling} {mean|do}",
            "{tell me about|what about|how works} {yarn|rope scaling}",
        ),
    ),
    Fact(
        "memory for the 20b model",
        "gpt-oss-20b runs within 16 GB of memory.",
        (
            "how much {memory|ram} {does the 20b model need|does gpt-oss-20b need|for 20b}",
            "how much {memory|ram} {do i need for|is needed for} {the 20b model|gpt-oss-20b|20b}",
            "can i run {the 20b model|gpt-oss-20b} {in|with|on} {16 gb|16 gb of memory}",
        ),
    ),
    Fact(
        "estimating memory",
        "Call gptoss.estimate_memory; it reads the headers alone.",
        (
            "how {do|can} i {estimate|predict|compute|know} {the memory|memory use|needed memory}",
            "how to {estimate|predict|compute} {the memory|memory use|memory}",
            "{what is|what does} estimate_memory {do|for}",
        ),
    ),
    Fact(
        "greedy decoding",
        "Temperature 0 is greedy: the most likely token is taken each time.",
        (
            "what is {greedy decoding|greedy|temperature 0|temperature zero}",
            "{explain|describe|define} {greedy decoding|temperature 0}",
            "how {do|can} i {decode greedily|use greedy decoding|get greedy output}",
            "how to {decode greedily|use greedy decoding|avoid randomness}",
        ),
    ),
    Fact(
        "the seed",
        "Pass seed=: the same seed gives the same tokens, whatever the thread count.",
        (
            "what {is|does} {the seed|a seed} {do|for}",
            "how {do|can} i {repeat|reproduce|fix} {a sample|an answer|the output|the sampling}",
            "how to {set a seed|get the same answer twice|reproduce an answer}",
            "how {do|can} i set {the seed|a seed}",
        ),
    ),
    Fact(
        "checkpoint layouts",
        "Both published layouts load: the Hugging Face one and the original one.",
        (
            "{which|what} {layouts|checkpoint layouts|checkpoint formats|file formats} {load|are "
            "supported|can be loaded}",
            "{which|what} {checkpoints|files} {load|are supported|can i use|can be loaded}",
            "does {gptoss|it} {load|support|read} {the original layout|hugging face files}",
        ),
    ),
    Fact(
        "precision",
        'precision="reference" computes with float32 activations and float32 KV.',
        (
            "what {is|does} {the reference mode|reference precision|precision reference} {do|mean}",
            "{explain|describe|define} {the reference mode|reference precision}",
            "how {do|can} i {compute|run} {in float32|exactly|with full precision}",
            "what is {the reference mode|reference precision|the precision setting}",
        ),
    ),
    Fact(
        "threads",
        "Pass threads= to load, or set GPTOSS_NUM_THREADS.",
        (
            "how {do|can} i {set|choose|limit|change} {the threads|the thread count|the number of "
            "threads}",
            "how to {set|choose|limit|change} {the threads|the thread count}",
            "how many threads {are used|does gptoss use}",
        ),
    ),
    Fact(
        "errors in checkpoints",
        "A bad file raises CheckpointError, which names the file and the tensor.",
        (
            "what {happens with|about|happens to} {a bad file|a bad checkpoint|a damaged file}",
            "what is {checkpointerror|a checkpoint error}",
            "{which error|what error} does {a bad file|a bad checkpoint|a damaged file} "
            "{give|raise}",
        ),
    ),
    Fact(
        "a greeting",
        "Hello! I am the gptoss demo model. Ask me for a sum or about gptoss.",
        ("{hello|hi|hey|good morning|good evening|good day} {|there|demo|gptoss|model}",),
    ),
    Fact(
        "thanks",
        "You are welcome!",
        (
            "{thanks|thank you|many thanks|thank you very much|thanks a lot} {|demo|for that|for "
            "the answer|for your help}",
        ),
    ),
)
