"""Options may stand before, between and behind the positional arguments of every command."""

from __future__ import annotations

import argparse
from itertools import combinations_with_replacement
from typing import Any

import pytest

from gptoss.cli import make_parser
from gptoss.cli.options import as_text

PARSER = make_parser()
COMMANDS = PARSER.commands()
# Of each type of argument a text that it takes.
SAMPLES: dict[Any, str] = {None: "some text", int: "7", float: "0.5", as_text: "more text"}
SPECIAL = {
    "--adapter": "name=folder",
    "--logit-bias": "3=1.5",
    "--stop-token-ids": "5,6",
    "--batch": "1,4",
    "--memory": "24GB",
    "--prompt": "9",
}


def values_of(action: argparse.Action) -> list[str]:
    """The arguments that an option takes."""
    if action.nargs == 0:
        return []
    if action.choices:
        return [next(iter(action.choices))]
    for name in action.option_strings:
        if name in SPECIAL:
            return [SPECIAL[name]]
    return [SAMPLES[action.type]]


def parse(command: str, arguments: list[str]) -> argparse.Namespace:
    return PARSER.parse_args([command, *arguments])


OPTIONS = [
    pytest.param(command, option, id=f"{command} {option}")
    for command, parser in COMMANDS.items()
    for action in parser.options()
    for option in action.option_strings
    if not isinstance(action, argparse._HelpAction)
]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_option_may_stand_anywhere(command: str, option: str) -> None:
    parser = COMMANDS[command]
    positionals = [f"positional {i}" for i, _ in enumerate(parser.positionals())]
    (action,) = (a for a in parser.options() if option in a.option_strings)
    spellings = [[option, *values_of(action)]]
    if values_of(action) and option.startswith("--"):
        spellings.append([f"{option}={values_of(action)[0]}"])
    for spelling in spellings:
        expected = parse(command, [*spelling, "--", *positionals])
        assert getattr(expected, action.dest) not in (None, action.default)
        for place in range(len(positionals) + 1):
            arguments = [*positionals[:place], *spelling, *positionals[place:]]
            assert parse(command, arguments) == expected, arguments
        # And with each other option between any two arguments.
        for other in parser.options():
            if other is action or isinstance(other, argparse._HelpAction):
                continue
            second = [other.option_strings[-1], *values_of(other)]
            expected_both = parse(command, [*spelling, *second, "--", *positionals])
            for i, j in combinations_with_replacement(range(len(positionals) + 1), 2):
                arguments = [
                    *positionals[:i],
                    *spelling,
                    *positionals[i:j],
                    *second,
                    *positionals[j:],
                ]
                assert parse(command, arguments) == expected_both, arguments


@pytest.mark.parametrize("command", COMMANDS)
def test_fewer_positionals_than_there_may_be(command: str) -> None:
    parser = COMMANDS[command]
    required = [a for a in parser.positionals() if a.nargs != "?"]
    for count in range(len(required), len(parser.positionals()) + 1):
        given = [f"positional {i}" for i in range(count)]
        options = parse(command, given)
        names = [action.dest for action in parser.positionals()]
        assert [getattr(options, name) for name in names] == [
            *given,
            *[None] * (len(names) - count),
        ]


class TestWhatIsNoOption:
    @pytest.mark.parametrize("text", ["-", "-3", "-.5", "-3 + 5?", "--effort is an option"])
    def test_without_dashes_before_it(self, text: str) -> None:
        for arguments in (["demo", text, "--effort", "low"], ["--effort", "low", "demo", text]):
            options = parse("chat", arguments)
            assert (options.model, options.question) == ("demo", text)

    @pytest.mark.parametrize("text", ["--effort", "-x", "--", "--effort=low"])
    def test_behind_two_dashes(self, text: str) -> None:
        for arguments in (["demo", "--json", "--", text], ["--json", "--", "demo", text]):
            options = parse("chat", arguments)
            assert (options.model, options.question) == ("demo", text)
            assert options.effort == "medium"


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["demo", "--efort", "low", "x"], "there is no option --efort; did you mean --effort?"),
            (["demo", "--efort=low", "x"], "there is no option --efort=low; did you mean --effort"),
            (["demo", "-z", "x"], "there is no option -z"),
            (
                ["demo", "What", "is", "it?"],
                "one argument too many: 'is'; quote a text with spaces",
            ),
            (["demo", "--effort", "extreme"], "argument --effort: invalid choice: 'extreme'"),
            (["demo", "x", "--effort"], "argument --effort: expected one argument"),
        ],
    )
    def test_one_line_says_what_is_wrong(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as found:
            parse("chat", arguments)
        assert found.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("usage: gptoss chat")
        assert message in err.splitlines()[-1]

    def test_a_missing_positional(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse("info", ["--dense", "q8"])
        assert "arguments are required: MODEL" in capsys.readouterr().err
