"""The argument parser of the commands: options may stand anywhere."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any

_NEGATIVE_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")


class CommandParser(argparse.ArgumentParser):
    """A parser that takes options before, between and behind the positional arguments.

    argparse hands out positional arguments greedily: with an optional QUESTION, the first run of
    them (`chat demo --effort high "…"`) already leaves the question empty. Here the options are
    read first, and what is left is handed out at once. What follows `--` is never an option.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse all arguments; what is left over is an error, with the option that was meant."""
        if args is None or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        given = list(args)
        end = given.index("--") if "--" in given else len(given)
        namespace, rest = self._read_options(given[:end], namespace)
        unknown = [text for text in rest if _looks_like_option(text)]
        if unknown:
            self.error(f"there is no option {unknown[0]}{self._meant(unknown[0])}")
        self._hand_out([*rest, *given[end + 1 :]], namespace)
        return namespace, []

    def _hand_out(self, texts: list[str], namespace: argparse.Namespace) -> None:
        """Set the positional arguments; each is a string, and an optional one may be left out."""
        actions = self.positionals()
        if len(texts) > len(actions):
            self.error(f"one argument too many: {texts[len(actions)]!r}; quote a text with spaces")
        missing = [a for a in actions[len(texts) :] if a.nargs != argparse.OPTIONAL]
        if missing:
            names = ", ".join(str(action.metavar or action.dest) for action in missing)
            self.error(f"the following arguments are required: {names}")
        for index, action in enumerate(actions):
            setattr(namespace, action.dest, texts[index] if index < len(texts) else action.default)

    def _read_options(
        self, args: list[str], namespace: argparse.Namespace | None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Read the options, with the positional arguments out of the way."""
        positionals = self.positionals()
        kept = [(action.nargs, action.default, action.required) for action in positionals]
        for action in positionals:
            action.nargs = action.default = argparse.SUPPRESS
            action.required = False
        try:
            return super().parse_known_args(args, namespace)
        finally:
            for action, (nargs, default, required) in zip(positionals, kept, strict=True):
                action.nargs, action.default, action.required = nargs, default, required

    def positionals(self) -> list[argparse.Action]:
        """The positional arguments, in their order."""
        return [action for action in self._actions if not action.option_strings]

    def options(self) -> list[argparse.Action]:
        """The options, `--help` among them."""
        return [action for action in self._actions if action.option_strings]

    def option_groups(self) -> dict[str, list[argparse.Action]]:
        """The options but `--help`, by the title of their group."""
        found = {}
        for group in self._action_groups:
            actions = [
                action
                for action in group._group_actions
                if action.option_strings and not isinstance(action, argparse._HelpAction)
            ]
            if actions:
                found[group.title or ""] = actions
        return found

    def commands(self) -> dict[str, CommandParser]:
        """The parsers of the commands, by name."""
        found: dict[str, Any] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= action.choices
        return found

    def _meant(self, option: str) -> str:
        known = [name for action in self.options() for name in action.option_strings]
        close = difflib.get_close_matches(option.partition("=")[0], known, n=1)
        return f"; did you mean {close[0]}?" if close else f" (gptoss {self._name()} --help)"

    def _name(self) -> str:
        return self.prog.rpartition(" ")[2]


def _looks_like_option(text: str) -> bool:
    # As argparse sees it: `-` is stdin, and `-3` or "-3 + 5?" is no option.
    return (
        text.startswith("-")
        and text != "-"
        and " " not in text
        and _NEGATIVE_NUMBER.match(text) is None
    )
