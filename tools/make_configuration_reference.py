#!/usr/bin/env python3
"""Writes docs/configuration.md from proto/config.proto.

    .venv/bin/python tools/make_configuration_reference.py
"""

from __future__ import annotations

import importlib
import pathlib
import sys
import tempfile

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
OUTPUT = REPOSITORY / "docs/configuration.md"

COMMANDS = [
    ("serve", "ServeConfig"),
    ("generate", "GenerateConfig"),
    ("eval", "EvalConfig"),
    ("bench", "BenchConfig"),
    ("inspect", "InspectConfig"),
]
SHARED = [
    ("Which model runs, and how", "EngineConfig"),
    ("How prompts are continued at the terminal", "SamplingConfig"),
]
INTRODUCTION = """\
# Configuration

<!-- Written by tools/make_configuration_reference.py from proto/config.proto; edit that. -->

Each setting is a flag (`--max-slots 8` or `--max-slots=8`) and, with underscores, a field of a
configuration file in protobuf's text format (`max_slots: 8`), which `--config FILE` reads. Flags win
over the file. Settings of the model stand in the file within `engine { ... }`, those of sampling
within `sampling { ... }`. Examples are in `configs/`; `treeline COMMAND --help` prints the same.

    port: 8080
    engine {
      model: "/srv/models/SmolLM2-135M-Instruct"
      max_slots: 8
    }
"""


def load_config_module():
    """The Python module that protoc makes of proto/config.proto."""
    with tempfile.TemporaryDirectory() as folder:
        status = protoc.main(["protoc", f"--proto_path={REPOSITORY}",
                              f"--proto_path={pathlib.Path(protoc.__file__).parent / '_proto'}",
                              f"--python_out={folder}", "proto/config.proto"])
        if status != 0:
            raise RuntimeError("protoc does not take proto/config.proto")
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("proto.config_pb2")
        finally:
            sys.path.remove(folder)


def kind(field: FieldDescriptor, options) -> str:
    if options.choice:
        return ", ".join(f"`{choice}`" for choice in options.choice)
    names = {FieldDescriptor.CPPTYPE_BOOL: "true or false", FieldDescriptor.CPPTYPE_STRING:
             options.value.lower() or "text"}
    integers = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64,
                FieldDescriptor.CPPTYPE_UINT64)
    name = names.get(field.cpp_type, "integer" if field.cpp_type in integers else "number")
    if options.HasField("min"):
        name += f", {options.min:.15g} to {options.max:.15g}"
    return name


def default(field: FieldDescriptor, options) -> str:
    if options.required:
        return "required"
    if not field.has_default_value:
        return ""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "`true`" if field.default_value else "`false`"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return f"`{field.default_value}`"
    return f"`{field.default_value:.15g}`"


def table(message: Descriptor, extension) -> str:
    lines = ["| flag | value | default | |", "|---|---|---|---|"]
    for field in message.fields:
        if not field.GetOptions().HasExtension(extension):
            continue
        options = field.GetOptions().Extensions[extension]
        cells = [f"`--{field.name.replace('_', '-')}`", kind(field, options),
                 default(field, options), options.help]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def reference() -> str:
    config = load_config_module()
    messages = config.DESCRIPTOR.message_types_by_name
    parts = [INTRODUCTION]
    for title, name in SHARED:
        users = [f"`{command}`" for command, message in COMMANDS
                 if any(field.message_type is messages[name] for field in messages[message].fields)]
        parts.append(f"## {title}\n\nOf {', '.join(users)}.\n\n{table(messages[name], config.flag)}")
    for command, name in COMMANDS:
        parts.append(f"## treeline {command}\n\n{table(messages[name], config.flag)}")
    return "\n".join(parts)


if __name__ == "__main__":
    OUTPUT.write_text(reference())
