"""What the demo model knows about gptoss: topic, wordings of the question, answer.

In a wording `{a|b}` stands for either; the wordings of a fact are all combinations. Each answer
is a true sentence about the package.
"""

# ruff: noqa: E501

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
            "{who|what} {are you|is this|am i talking to|do i talk to|is the demo}",
            "{what|which} model {are you|is this|am i talking to|do i talk to|is running|answers}",
            "what is {your name|the demo model|the demo|this model|demo}",
            "{tell me about|describe|introduce|explain} {yourself|the demo model|the demo}",
            "are you {chatgpt|an assistant|a real model|an ai|gpt-oss|a person|human|a bot|claude|"
            "gpt-oss-20b|the real model|gpt-4|a chatbot|smart|a language model}",
            "{is this|am i using} {chatgpt|a real model|gpt-oss|the real model|the large model}",
            "what kind of model {are you|is this}",
            "{who|what} is {speaking|answering}",
        ),
    ),
    Fact(
        "what I can do",
        "I add, subtract and compare whole numbers, call tools, reverse words and answer "
        "questions about gptoss.",
        (
            "what {can|could} {you|the demo|the demo model|this model|this demo} {do|answer|help "
            "with|understand}",
            "{what are your skills|what are your abilities|what do you know|how can you help}",
            "what {can|may|should|could} i {ask|ask you|ask the demo|ask here|try|try here|type}",
            "{list|tell me|show me} {what you can do|your skills|your abilities|what to ask}",
            "what {is|was} {the demo|the demo model|this model} {good for|made for|able to do}",
            "what are you {good at|good for|able to do|for|made for|capable of}",
            "what {things|tasks|questions|kind of questions} {can you do|can you answer|do you know|"
            "do you understand}",
            "{can you|could you|will you} {help me|do something|help|answer questions}",
            "what else {can you do|do you know}",
            "{help|give me an example|examples|show me an example|what now|what next}",
            "can you do {maths|math|sums|arithmetic}",
            "how {can i|do i} {use you|test you|try you out}",
        ),
    ),
    Fact(
        "gptoss",
        "gptoss is a Python package with a compiled core that runs gpt-oss-20b and gpt-oss-120b "
        "on your own machine.",
        (
            "what {is|exactly is} {gptoss|this package|the gptoss package|this library|this project|"
            "this software|this program|this tool}",
            "{explain|describe|define} {gptoss|this package|the gptoss package|this project}",
            "what does {gptoss|this package|the gptoss package|this library|this software} do",
            "{tell me about|introduce|what about} {gptoss|this package|the gptoss package}",
            "what is {the purpose|the point|the use|the idea|the goal} of {gptoss|this package}",
            "what is {gptoss|this package} {for|good for|about|made for|used for}",
            "{what can|what could} {gptoss|this package} {do|do for me}",
            "why {should i use|would i use|use} {gptoss|this package}",
            "{what can i do|what do i do} with {gptoss|this package}",
            "{gptoss|about gptoss}",
        ),
    ),
    Fact(
        "models",
        "gptoss runs gpt-oss-20b, gpt-oss-120b, fine-tunes of them, and me, the demo.",
        (
            "{which|what} models {are supported|are there|can i use|can i run|does gptoss run|run|"
            "work|exist|does it support|can gptoss load}",
            "{list|name|show me} {the models|the supported models|all models}",
            "does {gptoss|it} {run|support|load} {llama|other models|mistral|qwen|gemma|fine-tunes|"
            "a fine-tune|my fine-tune|gpt-4}",
            "can {i|gptoss} {run|use|load} {llama|other models|mistral|qwen|a fine-tune|fine-tunes|"
            "another model}",
            "{supported models|models|is llama supported|are other models supported}",
        ),
    ),
    Fact(
        "choosing a model",
        "Take gpt-oss-20b if you have 16 GB of memory; gpt-oss-120b is better and needs about 66 GB.",
        (
            "{which|what} {model|size|one} should i {use|take|choose|pick|download|start with}",
            "{which|what} model {is better|is best|is the best|is right for me|do you recommend|fits "
            "me|is smarter}",
            "should i {use|take|choose} {20b or 120b|120b or 20b|the small or the large model}",
            "what is the difference {between|of} {20b and 120b|the two models|the models}",
            "is {120b|gpt-oss-120b|the large model} {better|better than 20b|worth it|smarter}",
            "{20b or 120b|120b or 20b|gpt-oss-20b or gpt-oss-120b}",
            "how do i {choose|pick} {a model|the model|between 20b and 120b}",
        ),
    ),
    Fact(
        "installation",
        "Run pip install . in the source folder; it needs Python 3.10 or newer and a C++20 compiler.",
        (
            "how {do|can|would} i {install|set up|build|compile} {gptoss|it|this package|this|the "
            "package}",
            "how to {install|set up|build|compile} {gptoss|it|this package|the package}",
            "{what do i need|what is needed|what is required} {to install gptoss|for the "
            "installation|to build gptoss|to install it}",
            "{which|what} {python|python version|version of python|compiler} {do i need|is needed|is "
            "required|does gptoss need|works}",
            "{installation|install gptoss|requirements|show me how to install gptoss|pip install}",
            "how does {the installation|installing} work",
            "what are the {requirements|dependencies}",
            "{can|do} i {install it with pip|pip install gptoss|need a compiler}",
            "does {gptoss|it} {run on|work with|support} {python 3.9|python 3.12|my python}",
        ),
    ),
    Fact(
        "PyTorch",
        "No, gptoss needs neither PyTorch nor transformers; its core is written in C++.",
        (
            "{does gptoss|does it|does this package} {need|use|require|depend on} {pytorch|torch|"
            "transformers|tensorflow}",
            "do i {need|have to install} {pytorch|torch|transformers|tensorflow}",
            "is {pytorch|torch|transformers} {needed|required|necessary|used}",
            "can i {use it|run it|use gptoss} without {pytorch|torch|transformers}",
            "{which|what} {language|programming language} is {gptoss|the core|it} written in",
            "{pytorch|torch|what is the core written in|what about pytorch|is it written in c++}",
        ),
    ),
    Fact(
        "backends",
        "gptoss runs on the CPU, x86-64 or ARM; CUDA can be built in, Metal is not there yet.",
        (
            "{which|what} {backends|devices|hardware|processors|cpus|gpus} {are there|are supported|"
            "work|exist|does gptoss support|can i use|does it run on|are available}",
            "does {gptoss|it|this} {run on|work on|support|use} {a gpu|the gpu|my gpu|cuda|metal|"
            "nvidia|amd|gpus|a graphics card|arm|a mac|avx-512|apple silicon|intel|rocm}",
            "can {i|gptoss|it} {use|run on} {a gpu|the gpu|my gpu|cuda|metal|a graphics card}",
            "do i need {a gpu|a graphics card|cuda|nvidia|special hardware}",
            "is {a gpu|cuda|metal|a graphics card} {needed|supported|required|used|available}",
            "{where|on what} does {gptoss|it} run",
            "{list|name|show me|tell me} {the backends|all backends|the devices}",
            "{backends|gpu|cuda|metal|gpu support|what about gpus|what about cuda|what are the "
            "backends|what about amd}",
            "is there {gpu support|cuda support|a cuda backend|a metal backend}",
            "why {is there no|do you not use a|not use the} gpu",
        ),
    ),
    Fact(
        "systems",
        "gptoss is tested on Linux; other systems are not tested yet.",
        (
            "does {gptoss|it|this} {run|work} on {windows|macos|linux|a phone|android|my phone|ubuntu|"
            "a raspberry pi|ios}",
            "{which|what} {systems|operating systems|platforms|os} {are supported|work|does it run "
            "on|can i use|are tested}",
            "is {windows|macos|linux|android} {supported|tested}",
            "can i {use|run} {gptoss|it} on {windows|macos|linux|my phone|android}",
            "{windows|macos|linux|platforms|operating systems|what about windows|windows support}",
        ),
    ),
    Fact(
        "MXFP4",
        "MXFP4 stores numbers in 4 bits each, in blocks of 32 that share one scale. The experts "
        "are stored so.",
        (
            "what is {mxfp4|the mxfp4 format|the 4-bit format|fp4|mxfp}",
            "{explain|describe|define} {mxfp4|the mxfp4 format|the 4-bit format}",
            "what does {mxfp4|the mxfp4 format} {mean|stand for|do}",
            "how {does mxfp4 work|are numbers stored in mxfp4|is mxfp4 stored}",
            "{tell me about|what about} {mxfp4|the mxfp4 format|4-bit weights}",
            "how are {the experts|the weights|the experts' weights} {quantised|quantized|stored}",
            "{mxfp4|how many bits do the weights have|how many bits has a weight|is it quantized|what "
            "quantization is used|which quantization is used|are the weights quantized}",
        ),
    ),
    Fact(
        "loading a model",
        'Call gptoss.load("openai/gpt-oss-20b"), or the same with 120b; it is downloaded once.',
        (
            "how {do|can|would} i {load|open|get|use|start|run|download} {the 20b model|gpt-oss-20b|"
            "20b|the 120b model|gpt-oss-120b|120b|a model|the model|the large model|the real models}",
            "how to {load|open|get|use|run|download} {the 20b model|gpt-oss-20b|the small model|"
            "gpt-oss-120b|120b|a model|models}",
            "{load|show me how to load|i want to load|i want to use|i want to run} {the 20b model|"
            "gpt-oss-20b|gpt-oss-120b|120b|20b|a model}",
            "how is {the 20b model|gpt-oss-20b|20b|120b|a model} {loaded|opened|downloaded}",
            "{loading a model|load a model|what does gptoss.load do|what does load do}",
            "how do i {start|begin|get started}",
            "{what is the first step|where do i start|getting started|how do i begin with gptoss}",
        ),
    ),
    Fact(
        "loading the demo",
        'Call gptoss.load("demo"); it is part of the package and needs no download.',
        (
            "how {do|can|would} i {load|open|get|start|run} {the demo model|the demo|you}",
            "how to {load|open|get|use|run} {the demo model|the demo}",
            "how is {the demo model|the demo} {loaded|opened}",
            "{load|show me how to load|i want to load} {the demo model|the demo}",
            "{do i need to download the demo|is the demo downloaded|where is the demo|where does the "
            "demo come from|does the demo need a download}",
        ),
    ),
    Fact(
        "loading a folder",
        "Pass the path of the checkpoint folder to gptoss.load.",
        (
            "how {do|can} i {load|open|use} {a local folder|a folder|a local checkpoint|my files|my "
            "own checkpoint|a checkpoint|a local model|files on disk}",
            "how to {load|open|use} {a local folder|a checkpoint folder|a local checkpoint|a folder}",
            "can {i|gptoss} {load|open|use} {a local folder|a checkpoint on disk|local files|a folder}",
            "{i have the files on disk, what now|load a folder|from a folder|load my checkpoint|i "
            "already have the files|i downloaded the model myself}",
        ),
    ),
    Fact(
        "where models are kept",
        "Downloads go to the Hugging Face cache; HF_HOME moves it.",
        (
            "where {are|does gptoss keep|does it store|do you store|does gptoss put} {the models|the "
            "files|the downloads|the weights|models}",
            "where are {the models|downloads|the weights|the files} {kept|stored|saved|cached|on disk}",
            "how {do|can} i {change|move|set} {the cache|the download folder|the cache folder|where "
            "models are stored}",
            "{where is the cache|which folder are the models in|the download folder|where is the "
            "model on my disk|where did the download go}",
        ),
    ),
    Fact(
        "the size of a download",
        "gpt-oss-20b is a download of 13.8 GB, gpt-oss-120b of 65.2 GB.",
        (
            "how {big|large|long} is {the download|the 20b download|the 120b download|gpt-oss-20b on "
            "disk|the checkpoint|the file}",
            "how {much|many gb} {do i download|is downloaded|must i download|is the download|does it "
            "download}",
            "how much disk {space|} {do i need|is needed|does it need|does 20b need|does 120b need}",
            "how {big|large} {is gpt-oss-20b|is gpt-oss-120b|are the models|are the files|is 20b|is "
            "120b|is the 20b model|is the 120b model}",
            "what is {the size of the download|the download size|the size of 20b|the size of the "
            "models|the size of gpt-oss-120b}",
            "{download size|disk space|how long does the download take}",
        ),
    ),
    Fact(
        "hidden analysis",
        "The analysis is the model's raw reasoning and not meant for users, so only the final "
        "answer is shown.",
        (
            "why is {the analysis|the reasoning|your reasoning|the analysis channel|the thinking} "
            "{hidden|not shown|missing|invisible}",
            "why {do i not see|can i not see|is there no|don't i see|can't i see} {the analysis|the "
            "reasoning|your thoughts|the thinking}",
            "why {do you hide|hide|does gptoss hide} {the analysis|the reasoning|your reasoning}",
            "where is {the analysis|the reasoning|your reasoning|the thinking}",
            "what is {the analysis|the analysis channel|the hidden analysis|the raw reasoning}",
            "{is the reasoning meant for users|should users see the reasoning|hidden analysis|is your "
            "reasoning hidden}",
        ),
    ),
    Fact(
        "showing the reasoning",
        "On the command line add --show-reasoning; in Python read the reasoning field of the "
        "result.",
        (
            "how {do|can} i {see|show|read|get|view|display|print} {the analysis|the reasoning|your "
            "reasoning|your thoughts|the thinking|what you think|how you think}",
            "how to {see|show|read|print|view} {the analysis|the reasoning|the thinking}",
            "{show me|i want to see|print|let me see} {the analysis|the reasoning|your reasoning|your "
            "thoughts}",
            "can i {see|read|look at} {the reasoning|your reasoning|the analysis|your thoughts|the "
            "thinking}",
            "{show reasoning|show the thinking|which option shows the reasoning|what does "
            "--show-reasoning do|is there a way to see the reasoning}",
        ),
    ),
    Fact(
        "reasoning effort",
        'Pass reasoning_effort="low", "medium" or "high" to chat, or --effort on the command line.',
        (
            "how {do|can} i {set|change|choose|raise|lower|reduce|increase} {the effort|the reasoning "
            "effort|the thinking time|how long it thinks}",
            "how to {set|change|choose|raise|lower} {the effort|the reasoning effort}",
            "what {is|does} {the reasoning effort|reasoning effort|the effort|effort} {mean|do|for|}",
            "{explain|describe|tell me about} {the reasoning effort|reasoning effort|effort}",
            "how {do|can} i make {you|the model|it} think {longer|more|less|shorter|harder}",
            "which {effort levels|efforts|reasoning levels|levels of effort} {are there|exist}",
            "can {you|the model|it|i make it} {think longer|think less|think harder|think more}",
            "{effort|reasoning effort|low medium high|what are the effort levels|it thinks too long}",
        ),
    ),
    Fact(
        "Harmony",
        "Harmony is the conversation format of gpt-oss: messages with roles and channels between "
        "special tokens.",
        (
            "what is {harmony|the harmony format|the conversation format|the chat format|the prompt "
            "format|openai harmony}",
            "{explain|describe|define} {harmony|the harmony format|the chat format}",
            "what does {harmony|the harmony format} {mean|do}",
            "{tell me about|what about} {harmony|the harmony format}",
            "which {chat format|conversation format|prompt format|chat template} {is used|do you use|"
            "does gpt-oss use}",
            "{harmony|chat template|what are the special tokens for|how is a prompt formatted|how are "
            "messages formatted|how are conversations rendered}",
        ),
    ),
    Fact(
        "channels",
        "There are three channels: analysis for reasoning, commentary for tool calls, final for "
        "the answer.",
        (
            "{which|what} channels {are there|exist|are used|does harmony have|do you use}",
            "what are {channels|the channels|harmony channels|channels for}",
            "{explain|describe|list|name|tell me about} {channels|the channels|harmony channels}",
            "how many channels {are there|exist|does harmony have}",
            "what {is|does} {the commentary channel|the final channel|a channel} {for|do|mean|}",
            "{channels|the channels|what is commentary|which channel has the answer}",
        ),
    ),
    Fact(
        "roles",
        "The roles are system, developer, user, assistant and tool.",
        (
            "{which|what} roles {are there|exist|are used|does harmony have|can a message have}",
            "what are {roles|the roles|message roles}",
            "{explain|describe|list|name|tell me about} {roles|the roles|the message roles}",
            "how many roles {are there|exist|does harmony have}",
            "{roles|message roles|which role has a message|what role can a message have}",
        ),
    ),
    Fact(
        "system prompts",
        "Pass a system or developer message to chat, or --system on the command line.",
        (
            "how {do|can} i {set|change|give|write|add} {a system prompt|the system prompt|a system "
            "message|instructions|the instructions|a developer message}",
            "how to {set|change|give|add} {a system prompt|the system prompt|instructions}",
            "can i {set|give|use|change} {a system prompt|instructions|a system message}",
            "{system prompt|where do instructions go|where does the system prompt go|what is the "
            "developer message|how do i tell the model how to behave}",
        ),
    ),
    Fact(
        "tools",
        "Pass tools to chat as JSON schemas; the model calls them in the commentary channel.",
        (
            "how {do|can} i {use|declare|define|add|pass} {tools|a tool|functions|a function}",
            "how to {use|declare|define|add|pass} {tools|a tool|functions}",
            "how do {tools|tool calls|function calls} work",
            "what {are|is} {tools|tool calls|function calling|a tool|a tool call}",
            "{explain|describe|tell me about} {tools|tool calls|function calling}",
            "can {you|gptoss|the model|it} {call|use} {tools|functions|a tool}",
            "does {gptoss|it|the model} {support|have|do} {tools|function calling|tool calls}",
            "{tools|function calling|tool use|is function calling supported|are tools supported}",
        ),
    ),
    Fact(
        "running tools",
        "Call run with Python functions; it calls them, feeds the results back and stops at a "
        "final answer.",
        (
            "how {do|can} i {run|call|execute|use} {python functions|my functions|my own functions|my "
            "python function|my own python functions|my own function}",
            "how to {run|call|execute} {python functions|my functions|tools automatically|functions}",
            "can {you|gptoss|the model|it} {run|call|execute} {python functions|my functions|my code|"
            "my python functions|my own functions}",
            "what {is|does} {run|llm.run|the run method} {do|for|}",
            "{llm.run|an agent|how do i build an agent|how do i make an agent|can i build an agent|who "
            "runs the functions|who executes the tools|agents}",
        ),
    ),
    Fact(
        "built-in tools",
        'Pass builtin_tools=["python"] or ["browser"] to chat; running them is up to you.',
        (
            "how {do|can} i {use|declare|add|enable} {the built-in tools|the python tool|the browser "
            "tool|built-in python|the browser|builtin tools}",
            "{which|what} built-in tools {are there|exist|does the model know}",
            "what are {the built-in tools|built-in tools|builtin tools}",
            "{built-in tools|python tool|browser tool|is there a browser tool|is there a python tool|"
            "can it browse|can it browse the web|can it search the web}",
        ),
    ),
    Fact(
        "structured output",
        "Pass response_format with a JSON schema to chat; it needs the extra structured.",
        (
            "how {do|can} i {get|force|produce|make|have} {json|json output|structured output|valid "
            "json|an answer as json|answers as json|output that follows a schema|a json schema}",
            "how to {get|force|make} {json|json output|structured output|valid json}",
            "does {gptoss|it} {support|have|do|know} {structured output|json mode|json schemas|"
            "response_format|structured outputs|json output}",
            "can {i|gptoss|the model|it|you} {get|give|make|answer in|return|output} {json|structured "
            "output|valid json|json only}",
            "what is {structured output|response_format|json mode}",
            "{structured output|json|json schema|json mode|response_format|is structured output "
            "supported|is there a json mode|what about json}",
        ),
    ),
    Fact(
        "the server",
        "gptoss serve MODEL starts an HTTP server with OpenAI's API on your machine.",
        (
            "how {do|can} i {start|run|open|launch|host} {a server|the server|an api|an http server|"
            "the api|an openai server}",
            "how to {start|run|launch} {a server|the server|an api|an http server}",
            "is there {a server|an api|an http api|a web server|a rest api|an http server}",
            "does {gptoss|it} {have|offer|come with|include} {a server|an api|an http server|a rest "
            "api|an openai api}",
            "what {is|does} {gptoss serve|the serve command|serve} {do|for|}",
            "{explain|describe|tell me about} {gptoss serve|the serve command|the server}",
            "can i {use|call} {it|gptoss} {over http|with the openai package|from another machine|"
            "with the openai client|through an api|from javascript}",
            "is it {compatible with openai|openai compatible|compatible with the openai api}",
            "{server|gptoss serve|serve|http server|openai api|rest api|api}",
        ),
    ),
    Fact(
        "the licence",
        "The licence is Apache-2.0.",
        (
            "what is {the licence|the license|your licence|your license|its license}",
            "which {licence|license} {does gptoss have|is used|applies|does it have|is it}",
            "{under which|what} {licence|license} is {gptoss|this package|it} {released|published|"
            "under|}",
            "{tell me|what about} the {licence|license}",
            "is {gptoss|it|this package|this} {open source|free software|free|open}",
            "{may|can} i {use it commercially|sell it|use gptoss at work|use it for business|use it in "
            "my product|change the source|redistribute it|use it in a company}",
            "{licence|license|is commercial use allowed|does it cost anything|what does it cost|how "
            "much does gptoss cost|do i have to pay}",
        ),
    ),
    Fact(
        "working offline",
        "Yes, once the model is on disk it works offline, and the demo needs no network at all.",
        (
            "{does|can} {gptoss|it|the demo|this|the model} {work|run} {offline|without internet|"
            "without a network|without a connection|on a plane}",
            "do {i|you|we} need {internet|the internet|a network|a connection|to be online}",
            "is {internet|a network|a connection|the internet} {needed|required|necessary}",
            "can i {use|run} {gptoss|it|the demo|the model} {offline|without internet|without a "
            "network|on a plane}",
            "{offline|offline use|does it phone home when offline|what about offline use|does it need "
            "the internet|is it offline}",
        ),
    ),
    Fact(
        "privacy",
        "Everything stays on your machine: gptoss sends no data to anyone.",
        (
            "{is|are} {my data|it|gptoss|my prompts|my conversations|my chats} {private|safe|sent "
            "anywhere|sent to openai|uploaded|secret|logged|shared|tracked}",
            "does {gptoss|it|this} {send|upload|collect|share} {data|my data|anything|my prompts|"
            "telemetry|something to openai}",
            "{who|does anybody|does openai|can anyone} {sees|see|reads|read} {my data|my prompts|my "
            "conversations|what i write}",
            "where {does my data go|do my prompts go|is my data sent|are my chats stored}",
            "is there {telemetry|tracking}",
            "do i need {an account|an api key|a key|to log in|a token}",
            "{privacy|telemetry|data protection|what about privacy|does it phone home|what about my "
            "data|do you record what i say}",
        ),
    ),
    Fact(
        "the commands",
        "The commands are gptoss chat, generate, serve, batch, bench, info, doctor, verify and convert.",
        (
            "{which|what} {commands|subcommands} {are there|exist|does gptoss have|can i use|do you "
            "know|can i run}",
            "what are the {commands|subcommands|cli commands}",
            "{list|name|show me|tell me} {the commands|all commands|the cli commands}",
            "how do i use {the command line|the cli|the terminal|gptoss in the terminal}",
            "what can {the command line|the cli} do",
            "is there {a command line|a cli|a command line interface|a command}",
            "{commands|cli|command line|the command line}",
        ),
    ),
    Fact(
        "gptoss doctor",
        "gptoss doctor shows which models fit this machine, about how fast, and what is missing.",
        (
            "what {is|does} {gptoss doctor|the doctor command|doctor} {do|for|show|}",
            "{explain|describe|tell me about} {gptoss doctor|the doctor command}",
            "how {do|can} i {check|test|diagnose} {my machine|my setup|the installation|my computer|if "
            "it works}",
            "which command {checks|diagnoses} {my machine|my setup|the installation}",
            "{does a model fit|which model fits|will 20b run on|what runs on|which models fit} my "
            "{machine|computer|laptop}",
            "{can|could} my {machine|computer|laptop} {run it|run a model|run gpt-oss|handle it}",
            "{is my machine|is my computer|is my laptop} {good enough|fast enough|big enough}",
            "{doctor|gptoss doctor}",
        ),
    ),
    Fact(
        "gptoss info",
        "gptoss info MODEL shows a model's architecture, its sizes and its memory per context "
        "length.",
        (
            "what {is|does} {gptoss info|the info command|info} {do|for|show|}",
            "{explain|describe|tell me about} {gptoss info|the info command}",
            "how {do|can} i {see|get|show} {model details|the model's architecture|the model's "
            "size|details of a model}",
            "{gptoss info|which command shows the architecture|info}",
        ),
    ),
    Fact(
        "gptoss chat",
        "gptoss chat MODEL starts a conversation in the terminal; with a question it answers once.",
        (
            "what {is|does} {gptoss chat|the chat command} {do|for|}",
            "{explain|describe|tell me about} {gptoss chat|the chat command}",
            "how {do|can} i {chat|talk} {in the terminal|on the command line|with the model|with it|"
            "with a model|with gpt-oss-20b|to a model}",
            "how to {start a chat|chat in the terminal|start a conversation|chat}",
            "{gptoss chat|start a chat|can i chat in the terminal|how do i ask one question}",
        ),
    ),
    Fact(
        "commands in the chat",
        "In the chat /help lists the commands, /reset forgets the conversation and /exit leaves.",
        (
            "how {do|can} i {leave|exit|quit|end|stop|close} {the chat|the conversation|this chat|here|"
            "}",
            "how to {leave|exit|quit|end|close} {the chat|the conversation|}",
            "{which|what} {slash commands|commands in the chat|chat commands} {are there|exist|can i "
            "use}",
            "how {do|can} i {reset|clear|restart|start over|forget} {the chat|the conversation|}",
            "{exit|quit|slash commands|bye command|how do i get out of here|how do i get out}",
        ),
    ),
    Fact(
        "gptoss generate",
        "gptoss generate MODEL continues a prompt and streams the text to the terminal.",
        (
            "what {is|does} {gptoss generate|the generate command} {do|for|}",
            "{explain|describe|tell me about} {gptoss generate|the generate command}",
            "how {do|can} i {continue|complete} {a prompt|a text|text}",
            "how to {complete a prompt|continue a text|generate text|continue a prompt}",
            "{gptoss generate|plain continuation|text completion|how do i complete a sentence}",
        ),
    ),
    Fact(
        "gptoss batch",
        "gptoss batch IN.jsonl OUT.jsonl answers a file of requests, many at a time, and can resume.",
        (
            "what {is|does} {gptoss batch|the batch command} {do|for|}",
            "{explain|describe|tell me about} {gptoss batch|the batch command|batch files}",
            "how {do|can} i {answer|process|run} {many prompts from a file|a file of requests|a batch "
            "file|a jsonl file|a batch}",
            "{gptoss batch|batch files|batch file|can i run a batch file|can i process a file of "
            "prompts|is there a batch mode}",
        ),
    ),
    Fact(
        "gptoss bench",
        "gptoss bench MODEL measures tokens per second, beside the speed of the memory.",
        (
            "what {is|does} {gptoss bench|the bench command|bench} {do|for|}",
            "{explain|describe|tell me about} {gptoss bench|the bench command}",
            "how {do|can} i {measure|benchmark|test} {the speed|my machine's speed|the performance|"
            "tokens per second|performance}",
            "which command {measures|tests} the {speed|performance}",
            "{gptoss bench|benchmark|is there a benchmark|run a benchmark}",
        ),
    ),
    Fact(
        "gptoss verify",
        "gptoss verify MODEL checks a model's files against their checksums.",
        (
            "what {is|does} {gptoss verify|the verify command|verify} {do|for|}",
            "{explain|describe|tell me about} {gptoss verify|the verify command}",
            "how {do|can} i {check|verify} {the files|a download|the download|the checksums|a model|"
            "that the files are complete|if the download is complete}",
            "{gptoss verify|checksums|is my download complete|is my download damaged|are my files "
            "complete|which command checks the files}",
        ),
    ),
    Fact(
        "speed",
        "On two server cores gpt-oss-20b makes 8 to 14 tokens per second; gptoss bench measures "
        "yours.",
        (
            "how fast {is it|is gptoss|is gpt-oss-20b|is 20b|does it run|is the 20b model|can it be|"
            "are you|is this}",
            "how many tokens per second {does it make|do i get|are there|does 20b make|can i expect}",
            "what speed {can i expect|does it have|do i get|does 20b have}",
            "is {it|gptoss|20b} {fast|slow|faster than llama.cpp|as fast as llama.cpp}",
            "{why is it so slow|how long does an answer take|speed|performance|tokens per second}",
        ),
    ),
    Fact(
        "faster decoding",
        'Pass dense="bf12" to load for the same results faster, or dense="q8" for still faster, '
        "rounded ones.",
        (
            "how {do|can} i make {it|gptoss|the model|decoding} {faster|quicker|run faster}",
            "how {do|can} i {speed it up|speed up decoding|speed up the model|get more speed|get more "
            "tokens per second}",
            "what {is|does} {bf12|q8|the dense option|dense|the dense setting} {do|mean|for|}",
            "{bf12|q8|dense|how to speed it up|how to make it faster|can it be faster}",
        ),
    ),
    Fact(
        "speculative decoding",
        'Pass speculative="ngram" to load: it guesses repeated text ahead, and the tokens stay the '
        "same.",
        (
            "what is {speculative decoding|ngram|speculative|guessing ahead|ngram speculation}",
            "{explain|describe|tell me about} {speculative decoding|the ngram option}",
            "does {gptoss|it} {support|have|do} speculative decoding",
            "how {do|can} i {use|enable|turn on} {speculative decoding|ngram}",
            "{speculative decoding|ngram|is there speculative decoding}",
        ),
    ),
    Fact(
        "many requests",
        "Pass a list to generate, or use submit: many requests run together.",
        (
            "how {do|can} i {run|send|answer|ask} {many prompts|several prompts|many requests|a list "
            "of prompts|several questions at once|prompts in parallel|multiple prompts}",
            "can {i|gptoss|it} {run|answer|handle|serve} {many requests|several requests|many prompts|"
            "several users|requests in parallel|multiple requests} {at once|together|}",
            "does {gptoss|it} {batch|run requests together|support batching|do batching}",
            "{batching|parallel requests|continuous batching|what does submit do|how does batching "
            "work|concurrency}",
        ),
    ),
    Fact(
        "asyncio",
        "With asyncio use agenerate, astream and achat.",
        (
            "how {do|can} i {use|call} {it|gptoss} {with asyncio|asynchronously|from async code}",
            "does {gptoss|it} {support|have|work with} {asyncio|async|async calls|await}",
            "is there {an async api|async support|an asyncio interface}",
            "{asyncio|async|what is agenerate|what does achat do|can i await an answer}",
        ),
    ),
    Fact(
        "streaming",
        "Pass stream=True to chat and iterate over the deltas.",
        (
            "how {do|can} i {stream|stream an answer|stream the answer|get tokens one by one|stream "
            "tokens|see the answer while it is written}",
            "how to {stream|stream an answer|stream tokens|use streaming}",
            "does {gptoss|it|chat} {stream|support streaming}",
            "{explain|describe|tell me about} streaming",
            "{how does streaming work|streaming|stream|can i stream|is there streaming|can it stream "
            "tokens|what are deltas}",
        ),
    ),
    Fact(
        "experts",
        "Experts are small networks in each layer: 32 in gpt-oss-20b, 128 in gpt-oss-120b, 16 in me; "
        "4 work on a token.",
        (
            "what {is|are} {an expert|experts|mixture of experts|the experts|moe}",
            "{explain|describe|define} {experts|mixture of experts|moe}",
            "{tell me about|what about} {experts|the experts|mixture of experts}",
            "how many experts {does the 20b model have|does gpt-oss-20b have|has 20b|are there|does "
            "the 120b model have|does gpt-oss-120b have|has 120b|do you have|does the demo have|are "
            "active|are used|work on a token}",
            "how many experts {are in|are there in} {the 20b model|gpt-oss-20b|20b|you|the demo|120b|"
            "gpt-oss-120b|a layer|each layer}",
            "{what is|tell me} the number of experts {in|of} {the 20b model|gpt-oss-120b|the demo}",
            "{experts|number of experts|is it a mixture of experts}",
        ),
    ),
    Fact(
        "layers",
        "gpt-oss-20b has 24 layers, gpt-oss-120b has 36, and I have 4: two with a window and two "
        "with full attention.",
        (
            "how many layers {does the 20b model have|does gpt-oss-20b have|has 20b|are there|does "
            "the 120b model have|does gpt-oss-120b have|has 120b|do you have|does the demo have}",
            "how many layers {are in|are there in} {the 20b model|gpt-oss-20b|20b|you|the demo|120b|"
            "gpt-oss-120b}",
            "{what is|tell me} the number of layers {in|of} {the 20b model|gpt-oss-120b|the demo}",
            "{layers|number of layers|how deep is the model|how deep are you}",
        ),
    ),
    Fact(
        "size of the demo",
        "I have about 2.4 million parameters, in less than 3 MB.",
        (
            "how {big|large|small} {are you|is the demo|is the demo model|is this model|is this demo}",
            "how many parameters {do you have|does the demo have|does the demo model have|have you}",
            "what is {your size|the size of the demo|the size of the demo model}",
            "{parameters|your size|how many megabytes are you|are you large|are you small}",
        ),
    ),
    Fact(
        "training of the demo",
        "I was trained on two CPU cores on generated conversations, with tools/train_demo.",
        (
            "how were you {trained|made|built|created}",
            "how was {the demo|the demo model|this model} {trained|made|built|created}",
            "who {trained|made|built|created|wrote} {you|the demo|the demo model}",
            "{where|on what|when|with what} were you trained",
            "how {do|can} i {train|retrain|reproduce|rebuild} {the demo|the demo model|you}",
            "{what data were you trained on|your training|how long were you trained|what were you "
            "trained on|how did you learn}",
        ),
    ),
    Fact(
        "fine-tuning",
        "gptoss trains no models; it runs fine-tunes, and LoRA adapters that PEFT has saved.",
        (
            "can {i|gptoss|it} {fine-tune|train|finetune} {a model|models|the model|gpt-oss-20b|20b|my "
            "own model|with it|on my data|}",
            "how {do|can} i {fine-tune|finetune|train} {a model|the model|gpt-oss-20b|20b|my own model}",
            "does {gptoss|it} {support|do|have} {training|fine-tuning|finetuning}",
            "is {training|fine-tuning} {supported|possible}",
            "{fine-tuning|finetuning|training|can i teach it new things}",
        ),
    ),
    Fact(
        "text only",
        "Only text: the models read no images, sound or files, and make none.",
        (
            "can {you|it|the model|gptoss|i} {see|read|understand|make|draw|use|send} {images|pictures|"
            "an image|photos|audio|pdfs|video|a picture}",
            "does {gptoss|it|the model} {support|understand|read|accept} {images|pictures|audio|vision|"
            "pdfs|speech|sound}",
            "is it multimodal",
            "{images|vision|audio|multimodal|what about images|are images supported|can i send a file}",
        ),
    ),
    Fact(
        "the context length",
        "The models read up to 131,072 tokens.",
        (
            "what is {the context length|the context size|the longest context|your context length|the "
            "context window|the maximum context|the longest prompt}",
            "how {long|big|large} {is the context|can the context be|can a prompt be|is the context "
            "window|may a prompt be}",
            "how many tokens {can the model read|fit in the context|can a prompt have|does it read|can "
            "it handle|fit}",
            "{tell me|what about} {the context length|the context size}",
            "{context length|context window|context|can it read a book|how much text can it read}",
        ),
    ),
    Fact(
        "the sliding window",
        "Every second layer sees only the last tokens: 128 in the large models, 64 in me.",
        (
            "what is {the sliding window|a sliding window|window attention|the window|banded "
            "attention}",
            "{explain|describe|define} {the sliding window|window attention|the window}",
            "how {big|long|large} is {the sliding window|the window|the attention window}",
            "{tell me about|what about} {the sliding window|window attention}",
            "which layers {have a window|use a window|use the sliding window}",
            "{sliding window|window attention|is there a sliding window}",
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
            "{sinks|attention sinks|why are there sinks}",
        ),
    ),
    Fact(
        "the router",
        "The router scores the experts for each token and picks the best 4.",
        (
            "what {is|does} {the router|a router|routing} {do|for|}",
            "what is {the router|a router|expert routing}",
            "{explain|describe|define} {the router|expert routing|routing}",
            "how {does the router work|are experts chosen|are experts picked|does routing work|are the "
            "experts selected|is an expert chosen}",
            "{tell me about|what about} {the router|expert routing}",
            "{router|routing|who picks the experts|who chooses the experts|which experts are used}",
        ),
    ),
    Fact(
        "YaRN",
        "YaRN stretches the rotary position embedding by 32, from 4,096 tokens to 131,072.",
        (
            "what is {yarn|yarn scaling|rope scaling|rope}",
            "{explain|describe|define} {yarn|yarn scaling|rope scaling}",
            "what does {yarn|rope scaling} {mean|do}",
            "{tell me about|what about|how works} {yarn|rope scaling}",
            "{yarn|rope scaling|how are positions encoded|how is the context stretched}",
        ),
    ),
    Fact(
        "memory",
        "gpt-oss-20b needs about 14 GB of memory, gpt-oss-120b about 66 GB.",
        (
            "how much {memory|ram|gb} {does the 20b model need|does gpt-oss-20b need|for 20b|does "
            "gpt-oss-120b need|does 120b need|for 120b|do i need|is needed|does it need|does it take|"
            "does gptoss use|does it use|must i have}",
            "how much {memory|ram} {do i need for|is needed for|is required for} {the 20b model|"
            "gpt-oss-20b|20b|gpt-oss-120b|120b}",
            "can i run {the 20b model|gpt-oss-20b|20b|120b} {in|with|on} {16 gb|16 gb of memory|8 gb|"
            "32 gb|64 gb of ram|my laptop with 16 gb}",
            "{memory|ram|memory requirements|is 16 gb enough|is 8 gb enough|is 32 gb enough|are 16 gb "
            "enough|do i have enough memory}",
            "what are the memory {requirements|needs}",
        ),
    ),
    Fact(
        "estimating memory",
        "Call gptoss.estimate_memory; it reads the headers alone.",
        (
            "how {do|can} i {estimate|predict|compute|know|calculate} {the memory|memory use|needed "
            "memory|how much memory a model needs|the memory before loading}",
            "how to {estimate|predict|compute} {the memory|memory use|memory}",
            "{what is|what does} {estimate_memory|gptoss.estimate_memory} {do|for|}",
            "{estimate_memory|estimate memory|can i estimate the memory|can i know the memory before "
            "loading}",
        ),
    ),
    Fact(
        "less memory for the cache",
        'Pass kv_cache_dtype="int8" or a shorter context_length to load for a smaller cache.',
        (
            "how {do|can} i {save|reduce|lower|shrink} {memory|the memory|the kv cache|memory use|the "
            "cache}",
            "how to {save memory|reduce memory use|use less memory|shrink the kv cache}",
            "{what is|how large is|explain} {the kv cache|kv_cache_dtype}",
            "{kv cache|it needs too much memory|out of memory|i am out of memory|i get a memoryerror|"
            "i have too little memory}",
            "what do i do {when memory is short|if it runs out of memory|against a memoryerror}",
        ),
    ),
    Fact(
        "reuse of prompts",
        "A request that begins like an earlier one takes over what was computed; it is always on.",
        (
            "what is {prefix caching|the prefix cache|prompt caching}",
            "does {gptoss|it} {cache prompts|have prefix caching|support prefix caching|reuse prompts|"
            "cache the prompt|support prompt caching}",
            "{explain|tell me about} {prefix caching|the prefix cache|prompt caching}",
            "how {do|can} i {enable|turn on|use} {prefix caching|prompt caching}",
            "{prefix caching|prompt caching|is the prompt cached|is a prompt computed again|what are "
            "cached tokens}",
        ),
    ),
    Fact(
        "sampling",
        "Pass temperature, top_p, top_k or min_p to generate or chat.",
        (
            "how {do|can} i {set|change|choose|lower|raise} {the temperature|top_p|top_k|sampling|the "
            "sampling parameters|min_p}",
            "how to {set|change} {the temperature|top_p|the sampling}",
            "{which|what} sampling {parameters|options|settings} {are there|exist|can i use}",
            "{what is the temperature|what does temperature do|what is top_p|sampling|temperature|what "
            "is top_k|how do i make it more creative|how do i get random answers}",
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
            "{greedy decoding|greedy|what does temperature 0 do|what does temperature 0 mean|how do i "
            "turn off randomness}",
        ),
    ),
    Fact(
        "the seed",
        "Pass seed=: the same seed gives the same tokens, alone or in a batch, on any thread count.",
        (
            "what {is|does} {the seed|a seed} {do|for|}",
            "how {do|can} i {repeat|reproduce|fix} {a sample|an answer|the output|the sampling}",
            "how to {set a seed|get the same answer twice|reproduce an answer}",
            "how {do|can} i set {the seed|a seed}",
            "{is it|are answers|is gptoss|are the results|is the output} {deterministic|reproducible|"
            "repeatable|the same each time}",
            "{why is it another answer each time|why do i get different answers|seed|determinism|how "
            "do i get the same answer every time|can i repeat an answer}",
        ),
    ),
    Fact(
        "the length of answers",
        "Pass max_tokens to limit the answer, and max_reasoning_tokens to limit the thinking.",
        (
            "how {do|can} i {limit|set|shorten|cut|cap} {the answer|the length|the output|the length "
            "of the answer|the output length|the number of tokens|the thinking}",
            "how to {limit the answer|limit the output|get short answers|limit tokens}",
            "what {is|does} {max_tokens|max_reasoning_tokens} {do|for|}",
            "{max_tokens|why does the answer stop|why is the answer cut off|why is my answer cut|the "
            "answer is too long|max_reasoning_tokens}",
        ),
    ),
    Fact(
        "counting tokens",
        "gptoss.Tokenizer(MODEL).encode(text) gives the tokens; take their number.",
        (
            "how {do|can} i {count|get|see} {tokens|the tokens|the tokens of a text}",
            "how to {count tokens|tokenize text|use the tokenizer|tokenize a text}",
            "how many tokens {has|does|are in} {a text|my text|my prompt} {have|}",
            "{tokenizer|is there a tokenizer|which tokenizer is used|what is the tokenizer|how do i "
            "use the tokenizer|how do i tokenize text|count tokens}",
        ),
    ),
    Fact(
        "checkpoint layouts",
        "Both published layouts load, the Hugging Face one and the original one, and GGUF files.",
        (
            "{which|what} {layouts|checkpoint layouts|checkpoint formats|file formats} {load|are "
            "supported|can be loaded}",
            "{which|what} {checkpoints|files} {load|are supported|can i use|can be loaded}",
            "does {gptoss|it} {load|support|read} {the original layout|hugging face files|safetensors}",
            "{layouts|file formats|checkpoint formats|safetensors|is the original layout supported}",
        ),
    ),
    Fact(
        "precision",
        'precision="reference" computes with float32 activations and float32 KV.',
        (
            "what {is|does} {the reference mode|reference precision|precision reference} {do|mean|}",
            "{explain|describe|define} {the reference mode|reference precision}",
            "how {do|can} i {compute|run} {in float32|exactly|with full precision}",
            "what is {the reference mode|reference precision|the precision setting}",
            "{precision|float32|full precision|reference mode|is there a float32 mode|can it compute "
            "exactly}",
        ),
    ),
    Fact(
        "threads",
        "Pass threads= to load, or set GPTOSS_NUM_THREADS.",
        (
            "how {do|can} i {set|choose|limit|change} {the threads|the thread count|the number of "
            "threads|how many cores are used|the cores}",
            "how to {set|choose|limit|change} {the threads|the thread count|the number of threads}",
            "how many {threads|cores} {are used|does gptoss use|does it use}",
            "{threads|cores|can i use fewer cores|does it use all cores|how do i use fewer threads}",
        ),
    ),
    Fact(
        "errors in checkpoints",
        "A bad file raises CheckpointError, which names the file and the tensor.",
        (
            "what {happens with|about|happens to} {a bad file|a bad checkpoint|a damaged file|a broken "
            "file|a broken checkpoint}",
            "what is {checkpointerror|a checkpoint error|a checkpointerror}",
            "{which error|what error} does {a bad file|a bad checkpoint|a damaged file} "
            "{give|raise}",
            "{checkpointerror|what if a file is damaged|what if the checkpoint is broken}",
        ),
    ),
    Fact(
        "the documentation",
        "Start with README.md; the folder docs has the rest.",
        (
            "where {is|are|can i find|do i find} {the documentation|the docs|the manual|documentation|"
            "help|more information|the api reference}",
            "is there {documentation|a manual|more documentation|a tutorial|a guide}",
            "{where can i read more|where can i learn more|documentation|docs|how do i learn more|i "
            "need help with gptoss|where do i get help|who can help me}",
        ),
    ),
    Fact(
        "trust in answers",
        "The large models invent facts when they do not know them; docs/model.md tells how often.",
        (
            "can i trust {the answers|it|the model|you|gpt-oss}",
            "{do|does} {the models|it|the model|you|gpt-oss} {hallucinate|invent facts|lie|make things "
            "up|make mistakes}",
            "{is it|are the answers|are the models} {always right|reliable|correct|accurate|true}",
            "how {good|reliable|accurate|smart} {are the models|is gpt-oss-20b|is it|is the model|is "
            "20b}",
            "{hallucination|hallucinations|mistakes|can it be wrong}",
        ),
    ),
    Fact(
        "a greeting",
        "Hello! I am the gptoss demo model. Ask me for a sum or about gptoss.",
        (
            "{hello|hi|hey|good morning|good evening|good day} {|there|demo|gptoss|model|you|again}",
            "{how are you|how do you do|how is it going|what's up|good afternoon|nice to meet you|is "
            "anybody there|are you there|test|testing|hello world}",
        ),
    ),
    Fact(
        "thanks",
        "You are welcome!",
        (
            "{thanks|thank you|many thanks|thank you very much|thanks a lot|thx} {|demo|for that|for "
            "the answer|for your help|very much}",
            "{great|that is great|well done|nice|cool|very good|good job|perfect|that helps} {|thanks|"
            "thank you}",
        ),
    ),
    Fact(
        "goodbye",
        "Goodbye!",
        (
            "{bye|goodbye|good bye|see you|bye bye|ciao|see you later|until later|farewell} {|demo|"
            "then|gptoss|for now}",
            "{i have to go|that is all|i am done|that was all}",
        ),
    ),
)
