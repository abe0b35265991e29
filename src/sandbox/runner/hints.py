"""Type hints: as JSON Schema for whoever asks for the tools, and as types for what came as JSON. A part of the runner, read when it is needed: a
call of a function with plain arguments needs none of it.
"""
import dataclasses
import enum
import types
import typing

from __main__ import Refused, place_of


def schema_of(hint, seen=()):
    """A type hint as JSON Schema. None of Python's names reach the model: it sees what JSON can say."""
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", bytes: None}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any or hint is object:
        return {}
    if isinstance(hint, type) and hint in plain and plain[hint]:
        return {"type": plain[hint]}
    if origin is typing.Annotated:
        schema = schema_of(args[0], seen)
        said = [word for word in args[1:] if isinstance(word, str)]
        return {**schema, "description": said[0]} if said else schema
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is typing.Union or origin is getattr(types, "UnionType", ()):
        return {"anyOf": [schema_of(arg, seen) for arg in args]}
    if origin in (list, set, frozenset) or hint in (list, set, frozenset):
        schema = {"type": "array", "items": schema_of(args[0], seen)} if args else {"type": "array"}
        return schema if (origin or hint) is list else {**schema, "uniqueItems": True}
    if origin is tuple or hint is tuple:
        if not args or args[-1] is Ellipsis:
            return {"type": "array", **({"items": schema_of(args[0], seen)} if args else {})}
        return {"type": "array", "prefixItems": [schema_of(arg, seen) for arg in args], "minItems": len(args), "maxItems": len(args)}
    if origin is dict or hint is dict:
        if args and args[0] is not str:
            raise Refused("a dict's keys must be str: JSON has no others")
        return {"type": "object", **({"additionalProperties": schema_of(args[1], seen)} if args else {})}
    if hint in seen:
        raise Refused(f"{hint.__name__} contains itself, which a tool's schema cannot say here")
    if isinstance(hint, type):
        within = (*seen, hint)
        if issubclass(hint, enum.Enum):
            return {"enum": [member.value for member in hint]}
        if hasattr(hint, "model_json_schema"):
            return hint.model_json_schema()
        if dataclasses.is_dataclass(hint):
            hints = typing.get_type_hints(hint, include_extras=True)
            fields = [field for field in dataclasses.fields(hint) if field.init]
            needed = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
            return object_of({field.name: schema_of(hints[field.name], within) for field in fields}, needed)
        if hasattr(hint, "__total__") and hasattr(hint, "__required_keys__"):
            hints = typing.get_type_hints(hint)
            return object_of({name: schema_of(one, within) for name, one in hints.items()}, sorted(hint.__required_keys__))
    raise Refused(f"the type {getattr(hint, '__name__', hint)} has no JSON form; use str, int, float, bool, list, dict, Literal, Enum, "
                  "a dataclass, a TypedDict or a pydantic model")


def object_of(properties, needed):
    return {"type": "object", "properties": properties, "required": list(needed), "additionalProperties": False}


def value_of(hint, value):
    """What came as JSON, as the function wants it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return value_of(args[0], value)
    if origin is typing.Union or origin is getattr(types, "UnionType", ()):
        fitting = [arg for arg in args if arg is type(value)] or [arg for arg in args if arg is not type(None)]
        return None if value is None or not fitting else value_of(fitting[0], value)
    if origin in (list, set, frozenset, tuple) and isinstance(value, list) and args:
        hints = args if origin is tuple and args[-1] is not Ellipsis else [args[0]] * len(value)
        return origin(value_of(one, item) for one, item in zip(hints, value))
    if hint in (set, frozenset, tuple) and isinstance(value, list):
        return hint(value)
    if origin is dict and isinstance(value, dict) and args:
        return {key: value_of(args[1], item) for key, item in value.items()}
    if isinstance(hint, type):
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if issubclass(hint, enum.Enum):
            return hint(value)
        if hasattr(hint, "model_validate"):
            return hint.model_validate(value)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            hints = typing.get_type_hints(hint, include_extras=True)
            return hint(**{name: value_of(hints[name], item) for name, item in value.items()})
    return value


def words_of(function):
    """A docstring's first part, and what it says of each argument below `Args:`."""
    import inspect
    text = inspect.getdoc(function) or ""
    head, _, rest = text.partition("\nArgs:")
    said, last = {}, None
    for line in rest.splitlines():
        if line and not line[0].isspace():
            break
        name, colon, words = line.strip().partition(":")
        name = name.split("(")[0].strip()
        if colon and name.isidentifier() and len(line) - len(line.lstrip()) <= 4:
            said[name], last = words.strip(), name
        elif last and line.strip():
            said[last] += " " + line.strip()
    return head.strip(), said


def hints_of(function):
    return typing.get_type_hints(function, include_extras=True)


def described(name, function):
    """What a model is told of a function: its description, and the schema of its arguments."""
    import inspect
    where = f"{place_of(function)}: {name}"
    try:
        hints = hints_of(function)
    except Exception as error:
        raise Refused(f"{where}: its type hints cannot be read: {error}") from None
    description, said = words_of(function)
    properties, needed = {}, []
    for argument in inspect.signature(function).parameters.values():
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise Refused(f"{where}: a tool takes named arguments alone, and {argument} is none")
        if argument.name not in hints:
            raise Refused(f"{where}: the argument {argument.name} has no type hint")
        try:
            schema = schema_of(hints[argument.name])
        except Refused as refusal:
            raise Refused(f"{where}: the argument {argument.name}: {refusal}") from None
        if argument.name in said:
            schema = {**schema, "description": said[argument.name]}
        if argument.default is argument.empty:
            needed.append(argument.name)
        elif isinstance(argument.default, (str, int, float, bool, list, dict)):
            schema = {**schema, "default": argument.default}
        properties[argument.name] = schema
    return description, object_of(properties, needed)
