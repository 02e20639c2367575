"""The words of a command before their values are parsed: flags, paths by position, what is missing."""

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from tyro.conf import Suppress

from tlearn.errors import UsageError
from tlearn.recipes import known

_SUPPRESSED = get_args(Suppress[str])[1]
_NUMBERS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of a config, and of its groups (--optim.lr)."""

    name: str
    kind: Any
    """Its type, without what the help is told."""
    is_required: bool

    @property
    def takes_many(self) -> bool:
        return any(get_origin(kind) in (dict, tuple) for kind in (self.kind, *get_args(self.kind)))

    def take(self, words: list[str]) -> list[str]:
        """Remove the values of this flag from the words behind it. Raises UsageError for what cannot be its value."""
        if self.kind is bool:
            return []
        taken: list[str] = []
        while words and not words[0].startswith("--") and (self.takes_many or not taken):
            taken.append(words.pop(0))
        if not taken:
            raise UsageError(f"expected a value after {self.name}, got none")
        self.check(taken[0])
        return taken

    def check(self, value: str) -> None:
        """Raise UsageError for a word that is no such number, or none of the choices."""
        if get_origin(self.kind) is Literal:
            known(value, get_args(self.kind), f"for {self.name} one of")
        kinds = [kind for kind in get_args(self.kind) or (self.kind,) if kind is not NoneType]
        if len(kinds) == 1 and kinds[0] in _NUMBERS and value != "None":
            try:
                kinds[0](value)
            except ValueError:
                raise UsageError(f"expected {_NUMBERS[kinds[0]]} for {self.name}, got {value}") from None


def flags(config: type, prefix: str = "") -> dict[str, Flag]:
    """The flags of a config by name, those that say no too (--no-shuffle)."""
    found: dict[str, Flag] = {}
    for field in dataclasses.fields(config):
        annotated: tuple[Any, ...] = get_args(field.type) if get_origin(field.type) is Annotated else (field.type,)
        kind, *remarks = annotated
        if _SUPPRESSED in remarks:
            continue
        own = next((remark.name for remark in remarks if getattr(remark, "name", None)), field.name)
        name = f"{prefix}{own}".replace("_", "-")
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            found |= flags(kind, f"{name}.")
            continue
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found[f"--{name}"] = Flag(f"--{name}", kind, is_required)
        if kind is bool:
            negated = f"--{prefix}no-{field.name}".replace("_", "-")
            found[negated] = Flag(negated, kind, False)
    return found


def arranged(words: Sequence[str], config: type, positions: Sequence[str], prog: str) -> list[str]:
    """The words with a flag before every path that stands by position (`positions`: names of fields).

    Help that is asked for is all that is left. Raises UsageError for a flag that there is none of, a value that it
    cannot have, a word too many, and a flag that is missing.
    """
    if {"-h", "--help"} & set(words):
        return ["--help"]
    every, rest = flags(config), list(words)
    result: list[str] = []
    given: set[str] = set()
    loose: list[str] = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            loose.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = every.get(name.replace("_", "-")) or _unknown(name, every, prog)
        given.add(flag.name)
        if equals and flag.kind is not bool:
            flag.check(value)
        result += [word, *([] if equals else flag.take(rest))]
    free = [f"--{name}" for name in positions if f"--{name}" not in given]
    takes_rest = bool(free) and every[free[-1]].takes_many
    if len(loose) > len(free) and not takes_rest:
        raise UsageError(f"expected a flag of {prog}, got {loose[len(free)]}: {prog} --help lists them")
    for number, name in enumerate(free[: len(loose)]):
        end = len(loose) if takes_rest and name == free[-1] else number + 1
        result = [name, *loose[number:end], *result]
        given.add(name)
    missing = [flag.name for flag in every.values() if flag.is_required and flag.name not in given]
    if missing:
        raise UsageError(f"expected {' and '.join(missing)}, got none: {example(config)}")
    return result


def _unknown(name: str, every: Mapping[str, Flag], prog: str) -> NoReturn:
    alike = difflib.get_close_matches(name, every, 1)
    hint = f"did you mean {alike[0]}?" if alike else f"{prog} --help lists them"
    raise UsageError(f"expected a flag of {prog}, got {name}; {hint}")


def example(config: type) -> str:
    """The last line of its docstring: a command."""
    return (config.__doc__ or "").strip().splitlines()[-1].strip()


def is_path(word: str) -> bool:
    """Whether a word that might be a name is meant as a path."""
    return bool({"/", "."} & set(word)) or os.path.exists(word)
