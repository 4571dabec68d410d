"""The preview of a pickled value, read from the pickle's bytes: nothing that a pickle names is imported or called.

A small interpreter follows the opcodes of protocols 2 to 5. What the pickle would build by calling something becomes a
note of that call (``Made``), and the calls that make built-in values and arrays are recognised by name. Whatever else
there is, the answer is ``{}``, or the keys that do not depend on it. Tables are not described.

Bytes may be hostile, so all takes linear time: items are never hashed or compared (keys may collide, and a deep tuple
overflows the C stack), and only what a preview shows is written out. It is believed, though, that a pickler wrote the
bytes: the keys of a dict differ, a set's items come in its order, and ``copyreg.__newobj__`` makes what it says.
"""

from __future__ import annotations

import codecs
import math
import pickle
import struct
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlitestore import preview

MAX_OPCODES = 250_000
"""Longest program that is followed: 0.3 s and 30 MB at worst."""

MAX_OPCODES_OF_HEAD = 300  # of what is cut, only an early payload is of use; before it may be a shape of 64 dimensions
MAX_COPIED = 1 << 23  # [bytes] given to calls, which copy them: one payload may be given 100,000 times
MAX_NAME = 500  # [bytes] of a module and a name in it
FRAMED = 1 << 16  # [bytes] payloads from this size on stand between the frames of protocol 4; only those may be cut


def describe(head: bytes | memoryview, size: int) -> dict[str, Any]:
    """Return what ``preview.describe`` gives for the pickled value, or the part of it that is certain. Never raises.

    ``head`` is the pickle, or its first bytes (1 MiB is plenty), and not kept; ``size`` is the whole pickle's [bytes].
    """
    try:
        machine = _Machine(memoryview(head).cast("B"))
        with suppress(_CutError):
            return _described(machine.run(MAX_OPCODES if size <= len(machine.program) else MAX_OPCODES_OF_HEAD))
        return _described(machine.finish(size))
    except Exception:  # noqa: BLE001 - any bytes may come here
        return {}


class _UnknownError(Exception):
    """Only the code that the pickle names could tell."""


class _CutError(Exception):
    """The bytes end within a payload, whose beginning is on the stack."""


class Global(NamedTuple):
    """What a pickle names, be there such a thing or not."""

    module: str
    name: str


@dataclass(slots=True, eq=False)
class Made:
    """What ``called(*args)`` would return, or ``called.__new__`` if ``new``, with ``state`` given to it."""

    called: Any
    args: tuple[Any, ...]
    new: bool = False
    state: Any = None


@dataclass(slots=True, eq=False)
class Items:
    """A list, set, frozenset, or dict (whose keys and values alternate)."""

    kind: type
    items: list[Any]


@dataclass(slots=True, eq=False)
class Beginning:
    """The first bytes of a str (in UTF-8), bytes or bytearray of ``length`` items, None if that is not known."""

    kind: type
    data: memoryview
    length: int | None


class _Machine:
    """The pickle machine: a program, a stack with marks, a memo. Each opcode is a method and its arguments."""

    def __init__(self, program: memoryview) -> None:
        self.program = program
        self.position = self.protocol = self.framed_until = self.copied = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, limit: int) -> Any:
        program, handlers, stop = self.program, _HANDLERS, pickle.STOP[0]
        for _ in range(limit):
            opcode = program[self.position]
            self.position += 1
            if opcode == stop:
                return self.stack.pop()
            method, arguments = handlers[opcode]
            method(self, *arguments)
        raise _UnknownError

    def finish(self, size: int) -> Any:
        """Return the value whose payload is cut, if just as much is missing as its pickler writes after a payload.

        If more is, then what looks like the value may be the first item of a tuple: those say so when they end.
        """
        tail = _TAILS[self.protocol >= 4, size - self.position]  # noqa: PLR2004
        self.program, self.position = memoryview(tail), 0
        return self.run(len(tail))

    def number(self, layout: str) -> Any:
        (number,) = struct.unpack_from(layout, self.program, self.position)
        self.position += struct.calcsize(layout)
        return number

    def take(self, count: int = 0) -> list[Any]:
        """Take items from the stack: ``count``, or those above the last mark if that is 0."""
        begin = len(self.stack) - count if count else self.marks.pop()
        if begin < 0:
            raise _UnknownError
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def set_protocol(self) -> None:
        self.protocol = self.number("<B")

    def set_frame(self) -> None:
        self.framed_until = self.number("<Q") + self.position

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_number(self, layout: str) -> None:
        self.stack.append(self.number(layout))

    def push_payload(self, kind: type, layout: str) -> None:
        begin, length = self.position - 1, self.number(layout)
        data = self.program[self.position : self.position + length]
        self.position += length
        if len(data) == length:
            self.stack.append(_DECODERS.get(kind, kind)(data))
        elif length >= FRAMED and begin >= self.framed_until:
            self.stack.append(Beginning(kind, data, None if kind is str else length))
            raise _CutError
        else:
            raise _UnknownError

    def push_tuple(self, count: int) -> None:
        self.stack.append(tuple(self.take(count)))

    def push_items(self, kind: type, filled: bool = False) -> None:
        self.stack.append(Items(kind, self.take() if filled else []))

    def add(self, kind: type, count: int) -> None:
        added, target = self.take(count), self.stack[-1]
        if type(target) is Items and target.kind is kind and not (kind is dict and len(added) % 2):
            target.items += added
        elif type(target) is not Made:  # of a subclass: nobody asks what is in it
            raise _UnknownError

    def put(self, layout: str) -> None:
        self.memo[self.number(layout) if layout else len(self.memo)] = self.stack[-1]

    def get(self, layout: str) -> None:
        self.stack.append(self.memo[self.number(layout)])

    def push_lines(self) -> None:
        module, name, _ = bytes(self.program[self.position : self.position + MAX_NAME]).split(b"\n", 2)
        self.position += len(module) + len(name) + 2
        self.stack += [module.decode(), name.decode()]
        self.push_global()

    def push_global(self) -> None:
        module, name = self.take(2)
        if type(module) is not str or type(name) is not str or len(module) + len(name) > MAX_NAME:
            raise _UnknownError
        if self.protocol < 3:  # noqa: PLR2004 - the names are Python 2's
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self.stack.append(Global(_NUMPY.get(module, module), name))

    def make(self, count: int, new: bool) -> None:
        called, args, *_ = self.take(count)
        if type(args) is not tuple:
            raise _UnknownError
        if args and type(args[0]) in {str, bytes}:
            self.copied += len(args[0])
        if self.copied > MAX_COPIED:
            raise _UnknownError
        self.stack.append(Made(called, args, new=True) if new else _called(called, args))

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is not Made or made.state is not None:
            raise _UnknownError
        made.state = state


_DECODERS: dict[type, Callable[[memoryview], Any]] = {
    str: lambda data: str(data, "utf-8", "surrogatepass"),
    int: lambda data: int.from_bytes(data, "little", signed=True),
}
_OPCODES: dict[Callable[..., Any], dict[str, tuple[Any, ...]]] = {
    _Machine.set_protocol: {"PROTO": ()},
    _Machine.set_frame: {"FRAME": ()},
    _Machine.mark: {"MARK": ()},
    _Machine.take: {"POP": (1,), "POP_MARK": ()},
    _Machine.push: {"NONE": (None,), "NEWTRUE": (True,), "NEWFALSE": (False,), "EMPTY_TUPLE": ((),)},
    _Machine.push_number: {"BININT": ("<i",), "BININT1": ("<B",), "BININT2": ("<H",), "BINFLOAT": (">d",)},
    _Machine.push_payload: {"SHORT_BINUNICODE": (str, "<B"), "BINUNICODE": (str, "<I"), "BINUNICODE8": (str, "<Q")}
    | {"SHORT_BINBYTES": (bytes, "<B"), "BINBYTES": (bytes, "<I"), "BINBYTES8": (bytes, "<Q")}
    | {"LONG1": (int, "<B"), "LONG4": (int, "<I"), "BYTEARRAY8": (bytearray, "<Q")},
    _Machine.push_tuple: {"TUPLE": (0,), "TUPLE1": (1,), "TUPLE2": (2,), "TUPLE3": (3,)},
    _Machine.push_items: {"EMPTY_LIST": (list,), "EMPTY_DICT": (dict,), "EMPTY_SET": (set,)}
    | {"FROZENSET": (frozenset, True)},
    _Machine.add: {"APPEND": (list, 1), "APPENDS": (list, 0), "ADDITEMS": (set, 0)}
    | {"SETITEM": (dict, 2), "SETITEMS": (dict, 0)},
    _Machine.put: {"MEMOIZE": ("",), "BINPUT": ("<B",), "LONG_BINPUT": ("<I",)},
    _Machine.get: {"BINGET": ("<B",), "LONG_BINGET": ("<I",)},
    _Machine.push_lines: {"GLOBAL": ()},
    _Machine.push_global: {"STACK_GLOBAL": ()},
    _Machine.make: {"REDUCE": (2, False), "NEWOBJ": (2, True), "NEWOBJ_EX": (3, True)},
    _Machine.build: {"BUILD": ()},
}
_HANDLERS = {
    getattr(pickle, name)[0]: (method, arguments)
    for method, variants in _OPCODES.items()
    for name, arguments in variants.items()
}
_TAILS = {(True, 2): b".", (True, 14): b"tb.", (False, 3): b".", (False, 7): b"tb."}
"""What is left to do after the payload of a str or of bytes, and of an array; by protocol (new?) and [bytes] left."""
_NUMPY = {f"numpy.{core}.{module}": "numpy" for core in ("core", "_core") for module in ("multiarray", "numeric")}


def _called(called: Any, args: tuple[Any, ...]) -> Any:
    """Return the built-in value that the call returns, and a note of the call where it is no built-in one."""
    value: Any = Made(called, args)
    match called, args:
        case Global("_codecs", "encode"), (str(text), "latin1"):
            value = text.encode("latin1")
        case Global("builtins", "bytes" | "bytearray" as name), () | (bytes(),):
            value = bytes(*args) if name == "bytes" else bytearray(*args)
        case Global("builtins", "complex"), (float(), float()):
            value = complex(*args)
        case Global("builtins", "range"), (int(), int(), int()):
            value = range(*args)
        case Global("builtins", "set" | "frozenset" as name), (Items(items=items),):
            value = Items(set if name == "set" else frozenset, items)
    return value


def _described(value: Any) -> dict[str, Any]:
    if type(value) is Beginning:
        return _describe_beginning(value)
    if type(value) is Made:
        return _describe_array(value)
    if type(value) not in {Items, tuple}:
        return {} if type(value) is Global else preview.describe(value)
    kind, items = (tuple, value) if type(value) is tuple else (value.kind, value.items)
    described: dict[str, Any] = {"length": len(items) // (2 if kind is dict else 1)}
    with suppress(_UnknownError):
        text = _short(value)
        text = text if len(text) <= preview.MAX_TEXT else text[: preview.MAX_TEXT - 3] + "..."
        described["repr"] = text.encode(errors="replace").decode()
    return described


def _describe_beginning(value: Beginning) -> dict[str, Any]:
    data, known = value.data[: 4 * (preview.MAX_TEXT + 1)], {} if value.length is None else {"length": value.length}
    # As many characters as are whole; how many there are in all is not known.
    text = codecs.utf_8_decode(data, "surrogatepass", False)[0] if value.kind is str else value.kind(data)  # noqa: FBT003
    return known | {"repr": preview._bounded(text)} if len(text) > preview.MAX_TEXT else known


def _short(value: Any, depth: int = 3) -> str:
    """Return the text of ``preview._short``, or one that begins with as many of its characters as are shown."""
    if type(value) is Made or type(value) is Global:
        return f"<{_type_name(value)}>"
    if type(value) not in {Items, tuple}:
        return preview._bounded(value, 60)
    kind, items = (tuple, value) if type(value) is tuple else (value.kind, value.items)
    opening, closing = preview._BRACKETS[kind] if items or kind is not set else ("set(", ")")
    if not depth and items:
        return f"{opening}...{closing}"
    texts: list[str] = []
    width = 2 if kind is dict else 1
    for begin in range(0, min(len(items), width * preview.MAX_ITEMS), width):
        if sum(len(text) for text in texts) <= preview.MAX_TEXT:
            texts.append(": ".join(_short(item, depth - 1) for item in items[begin : begin + width]))
    if len(items) > width * preview.MAX_ITEMS:
        texts.append("...")
    comma = "," if kind is tuple and len(items) == 1 else ""
    return f"{opening}{', '.join(texts)}{comma}{closing}"


def _type_name(made: Made | Global) -> str:
    """Return the qualified name of the object's type."""
    match made:
        case Made(Global(module, name), new=True) if module != "builtins":
            return name
        case Made(Global("numpy", "_reconstruct"), (Global(_, name), *_)):
            return name
        case Made(Global("numpy", "_frombuffer")):
            return "ndarray"
        case Made(Global("datetime" | "decimal" | "fractions" | "collections", name), new=False):  # these are classes
            return name
    raise _UnknownError


def _describe_array(made: Made) -> dict[str, Any]:
    """Describe what NumPy pickles: an array that is given its state or made of a buffer, or a scalar."""
    parts = _parts_of_array(made)
    match made:
        case Made(Global("_operator", "getitem"), (Made() as different, Made() as places), state=None):
            of, at = _parts_of_array(different), _parts_of_array(places)
            if of and at and len(of[0]) == 1 and _dtype(at[1])[0].startswith("uint"):  # as of ``text_arrays``
                parts = at[0], of[1], False, None
    if parts is None:
        return {}
    shape, dtype, order, data = parts
    if len(shape) > 64 or not all(type(length) is int and 0 <= length < 1 << 63 for length in shape):  # noqa: PLR2004
        return {}
    described: dict[str, Any] = {"shape": list(shape)}
    with suppress(_UnknownError, struct.error):
        described["dtype"], layout = _dtype(dtype)
        if len(shape) <= 32:  # noqa: PLR2004 - the limit of ``preview``
            items = list(_first_items(shape, order is True or order == "F", layout, data))
            more = ", ..." if math.prod(shape) > len(items) else ""
            described["repr"] = f"[{', '.join(items)}{more}]" if shape else items[0]
    return described


def _parts_of_array(made: Made) -> tuple[tuple[Any, ...], Any, Any, Any] | None:
    """Return shape, dtype, order and data as the pickle says them, None if it makes no array."""
    match made.called, made.args, made.state:
        case Global("numpy", "_reconstruct"), (Global("numpy", "ndarray"), *_), (1, tuple(shape), dtype, order, data):
            return shape, dtype, order, data
        case Global("numpy", "_frombuffer"), (data, dtype, tuple(shape), order), None:
            return shape, dtype, order, data
        case Global("numpy", "scalar"), (dtype, data), None:
            return (), dtype, False, data
    return None


def _dtype(made: Any) -> tuple[str, str]:
    """Return the text of a plain dtype, and how ``struct`` lays out an item: only the byte order where it does not."""
    match made:
        case Made(Global("numpy", "dtype"), ("M8" | "m8" as code, *_), state=(4, "<", *_, (_, (bytes(unit), 1, 1, 1)))):
            if unit != b"generic" and sys.byteorder == "little":
                return f"{'datetime64' if code == 'M8' else 'timedelta64'}[{unit.decode()}]", "<"
        case Made(Global("numpy", "dtype"), (str(code), *_), state=(3, "<" | ">" | "|" as order, None, None, None, *_)):
            name, swapped = _KINDS.get(code[:1]), order == (">" if sys.byteorder == "little" else "<")
            text = f"{name}{8 * int(code[1:])}" if code[:1] in "iufc" else name
            text = text if text and not swapped else order + code
            return text[: preview.MAX_TEXT], order.replace("|", "<") + _LAYOUTS.get(code, "")
    raise _UnknownError


def _first_items(shape: tuple[int, ...], fortran: bool, layout: str, data: Any) -> Iterator[str]:
    total, size = math.prod(shape), struct.calcsize(layout)
    if not size or total * size != (data.length if type(data) is Beginning else len(data)):
        raise _UnknownError
    for index in range(min(total, 6)):
        rest, place, stride = index, 0 if fortran else index, total
        for length in reversed(shape if fortran else ()):
            stride //= length
            rest, position = divmod(rest, length)
            place += position * stride
        item = struct.unpack_from(layout, data.data if type(data) is Beginning else data, place * size)
        if layout[1] in "ef":
            yield _float_text(item[0], layout)
        else:
            yield str(complex(*item) if len(item) > 1 else item[0])[:24]


def _float_text(value: float, layout: str) -> str:
    """Return NumPy's text of a float of 16 or 32 bits: the fewest digits that tell it from its neighbours."""
    if not math.isfinite(value) or not value:
        return str(value)
    for digits in range(9):
        text = f"{value:.{digits}e}"
        with suppress(OverflowError):
            if struct.pack(layout, float(text)) == struct.pack(layout, value):
                break
    magnitude, half = abs(value), layout[1] == "e"
    if (1e3 if half else 1e6) <= magnitude < 1e16:  # noqa: PLR2004 - the exponent depends on NumPy's version
        raise _UnknownError
    if digits == (4 if half else 8) and math.frexp(magnitude)[0] == 0.5:  # noqa: PLR2004
        raise _UnknownError  # its neighbours differ in distance: NumPy may take the farther of two decimals
    return str(float(text)) if 1e-4 <= magnitude < 1e6 else text  # noqa: PLR2004


_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex", "O": "object"}
_LAYOUTS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_LAYOUTS |= {"f2": "e", "f4": "f", "f8": "d", "c16": "dd"}
