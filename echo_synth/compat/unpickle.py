"""The instructions of other people's pickles, carried out without executing anything in them.

They are scanned before one of them runs; every name they ask for is answered by a stand-in of
`inert` or refused. Source code that a file carries is dropped unread. What comes out is tensors,
plain containers and `Record`s.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from io import BytesIO
from typing import Any, ClassVar

from echo_synth.compat.inert import (
    Call,
    Class,
    NumpyType,
    Reader,
    Record,
    Refused,
    Shell,
    StorageType,
    brief,
    check_name,
    plain_key,
    stand_in,
)

_MOST_INSTRUCTIONS = 1_000_000  # a network of 2000 tensors takes 100,000
_MOST_PATHS = 2_000_000  # ways from the content to what it holds, as one who walks it would take them
_REFUSED_OPCODES = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}


def scan(data: bytes) -> int:
    """Walk the instructions of the pickle at the start of `data` without running them; returns its length.

    Refuses extension codes, memo numbers beyond the number of instructions, by which a few bytes
    could ask for gigabytes, more instructions than a network needs, and every name that is not
    answered here.
    """
    end = 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data), start=1):
        if count > _MOST_INSTRUCTIONS:
            raise Refused(f"it has more than {_MOST_INSTRUCTIONS} instructions")
        if opcode.name in _REFUSED_OPCODES:
            raise Refused(f"it uses the pickle instruction {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise Refused(f"its memo number {argument} is out of order")
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            check_name(module, name)
        end = position or 0
    return end + 1


# The pure Python unpickler: each instruction that could touch an object is replaced by one that
# touches only stand-ins, dictionaries, lists and sets.
_Base: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_Base):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(_Base.dispatch)

    def __init__(self, data: bytes, reader: Reader, load_storage: Callable[[Any], Any]) -> None:
        super().__init__(BytesIO(data), encoding="latin1")
        self._reader, self._load_storage = reader, load_storage

    def find_class(self, module: str, name: str) -> Any:
        return stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return self._load_storage(pid)

    def _answer(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Class) and not arguments:
            return Shell(function.name)
        if isinstance(function, Class):
            raise Refused(f"it calls {function.name}()")
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise Refused(f"it calls {brief(function)}")
        self._reader.charge_copies(*arguments)
        return function.answer(self._reader, *arguments)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._answer(self.stack[-1], arguments)

    def _new_with_keywords(self) -> None:
        keywords = self.stack.pop()
        if keywords:
            raise Refused("it passes keyword arguments")
        self._reduce()

    def _refuse(self) -> None:
        raise Refused("it uses an instruction that makes objects of protocol 0")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Shell) and isinstance(state, dict):
            self._reader.charge_copies(state)
            target.held = dict(state)
        elif isinstance(target, NumpyType) and isinstance(state, tuple) and state[1:2] in ((), ("<",), ("|",), ("=",)):
            pass
        elif not isinstance(target, dict):  # what an OrderedDict or EasyDict carries besides its items is left out
            raise Refused(f"it sets the state of {brief(target)}")

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused(f"it sets items of {brief(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[plain_key(key)] = value

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self) -> None:
        self._fill(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def _additems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if not isinstance(target, set):
            raise Refused(f"it adds members to {brief(target)}")
        target.update(plain_key(i) for i in items)

    def _frozenset(self) -> None:
        self.append(frozenset(plain_key(i) for i in self.pop_mark()))

    dispatch.update(
        {
            pickle.REDUCE[0]: _reduce,
            pickle.NEWOBJ[0]: _reduce,
            pickle.NEWOBJ_EX[0]: _new_with_keywords,
            pickle.INST[0]: _refuse,
            pickle.OBJ[0]: _refuse,
            pickle.BUILD[0]: _build,
            pickle.SETITEM[0]: _setitem,
            pickle.SETITEMS[0]: _setitems,
            pickle.DICT[0]: _dict,
            pickle.ADDITEMS[0]: _additems,
            pickle.FROZENSET[0]: _frozenset,
        }
    )


def load(data: bytes, reader: Reader, load_storage: Callable[[Any], Any], scanned: bool = False) -> Any:
    """The content of the pickle `data`; `load_storage` answers its references to outside data.

    `scanned` says that `scan` has gone over exactly these bytes already.

    Who walks the content meets at most `_MOST_PATHS` objects, counted as often as they are met.

    Raises Refused, which names what the file asked for, and ValueError where the pickle is damaged.
    """
    if not scanned:
        scan(data)
    try:
        content = _Unpickler(data, reader, load_storage).load()
    except pickle.UnpicklingError as e:
        raise ValueError(str(e)) from None
    return _plain(content, {})[0]


def no_storage(pid: Any) -> Any:
    """For files that hold nothing outside their pickles."""
    raise Refused(f"it refers to outside data {brief(pid)}")


_Seen = dict[int, tuple[Any, int]]


def _plain(value: Any, seen: _Seen) -> tuple[Any, int]:
    """Shells as Records and stand-ins as text, all the way down, and how many paths lead to anything in it.

    What is shared in the file stays shared, and is counted each time: lists that hold the one before
    twice are a few bytes each and double the paths. Raises Refused where these are too many.
    """
    if id(value) in seen:
        return seen[id(value)]
    result, paths = value, 1
    if isinstance(value, Shell):
        held, paths = _plain(value.held, seen)
        result = Record(value.name, held)
    elif isinstance(value, dict):
        parts = {k: _plain(v, seen) for k, v in value.items()}
        result, paths = {k: part for k, (part, _) in parts.items()}, 1 + sum(n for _, n in parts.values())
    elif isinstance(value, (list, tuple)):
        members = [_plain(v, seen) for v in value]
        result, paths = type(value)(part for part, _ in members), 1 + sum(n for _, n in members)
    elif isinstance(value, (Class, Call, StorageType, NumpyType)):
        result = f"<{type(value).__name__.strip('_').lower()}>"
    if paths > _MOST_PATHS:
        raise Refused(f"what it holds is shared so often that there are more than {_MOST_PATHS} paths to it")
    seen[id(value)] = (result, paths)
    return result, paths
