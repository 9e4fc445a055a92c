"""The protos are the reference manual and a promise: everything is explained, and the rules of the API hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

from tools.gen_protos import ROOT

# Methods of the public service that change something; each takes a request_id. The agents' own methods are
# idempotent by their keys (the join token and key digest, the epoch, the offset).
MUTATIONS = {
    "SubmitTask",
    "SubmitTasks",
    "CancelTasks",
    "RetryTask",
    "DrainAgent",
    "RemoveAgent",
    "CreateJoinToken",
    "CreatePool",
    "UpdatePool",
    "DeletePool",
    "TerminateInstance",
    "RefreshCatalog",
    "ImportCatalog",
    "SetBudget",
    "DeleteBudget",
    "SetRenting",
}
QUERIES = {
    "GetTask",
    "GetStatus",
    "ListTasks",
    "WatchTasks",
    "StreamLogs",
    "ListAgents",
    "GetAgent",
    "GetPool",
    "ListPools",
    "ListInstances",
    "GetInstance",
    "ListOffers",
    "ListGpus",
    "CheckProviders",
    "PlanTasks",
    "GetCost",
    "ListBudgets",
    "GetServerInfo",
}

# Numbers of FileDescriptorProto.message_type and so on, which locations in source info are made of.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM = 2, 3, 4
_ENUM_VALUE, _SERVICE_METHOD = 2, 2

Place = tuple[int, ...]


@pytest.fixture(scope="module")
def protos() -> list[FileDescriptorProto]:
    """Every proto file of Styx, with its comments."""
    folder = ROOT / "protos"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as out:
        target = Path(out) / "all.binpb"
        includes = [f"-I{folder}", f"-I{files('grpc_tools') / '_proto'}"]
        flags = ["--include_source_info", f"--descriptor_set_out={target}"]
        assert protoc.main(["protoc", *includes, *flags, *names]) == 0
        return list(FileDescriptorSet.FromString(target.read_bytes()).file)


def messages(file: FileDescriptorProto) -> Iterator[tuple[str, Place, DescriptorProto]]:
    """Every message of a file, nested ones too; those that stand for map entries are left out."""

    def below(
        prefix: str, place: Place, number: int, these: list[DescriptorProto]
    ) -> Iterator[tuple[str, Place, DescriptorProto]]:
        for index, message in enumerate(these):
            if message.options.map_entry:
                continue
            here = (*place, number, index)
            yield f"{prefix}.{message.name}", here, message
            yield from below(f"{prefix}.{message.name}", here, _MESSAGE_NESTED, list(message.nested_type))

    yield from below(file.package, (), _FILE_MESSAGE, list(file.message_type))


def enums(file: FileDescriptorProto) -> Iterator[tuple[str, Place, EnumDescriptorProto]]:
    for index, enum in enumerate(file.enum_type):
        yield f"{file.package}.{enum.name}", (_FILE_ENUM, index), enum
    for name, place, message in messages(file):
        for index, enum in enumerate(message.enum_type):
            yield f"{name}.{enum.name}", (*place, _MESSAGE_ENUM, index), enum


def methods(file: FileDescriptorProto) -> Iterator[tuple[str, Place, MethodDescriptorProto]]:
    for service_index, service in enumerate(file.service):
        for index, method in enumerate(service.method):
            place = (_FILE_SERVICE, service_index, _SERVICE_METHOD, index)
            yield f"{file.package}.{service.name}.{method.name}", place, method


def things(file: FileDescriptorProto) -> Iterator[tuple[str, Place]]:
    """Everything that a reader may look up."""
    for index, service in enumerate(file.service):
        yield f"{file.package}.{service.name}", (_FILE_SERVICE, index)
    yield from ((name, place) for name, place, _ in methods(file))
    for name, place, message in messages(file):
        yield name, place
        yield from ((f"{name}.{field.name}", (*place, _MESSAGE_FIELD, i)) for i, field in enumerate(message.field))
    for name, place, enum in enums(file):
        yield name, place
        yield from ((f"{name}.{value.name}", (*place, _ENUM_VALUE, i)) for i, value in enumerate(enum.value))


def comments(file: FileDescriptorProto) -> dict[Place, str]:
    located = file.source_code_info.location
    return {tuple(each.path): each.leading_comments.strip() or each.trailing_comments.strip() for each in located}


def test_everything_in_the_protos_is_explained(protos: list[FileDescriptorProto]) -> None:
    silent = []
    for file in protos:
        said = comments(file)
        silent += [name for name, place in things(file) if not said.get(place)]
    assert silent == []


def test_every_rpc_lists_its_errors_or_has_none(protos: list[FileDescriptorProto]) -> None:
    without = {
        name.rsplit(".", 1)[-1]
        for file in protos
        for name, place, _ in methods(file)
        if "Errors:" not in comments(file)[place] and "Any error" not in comments(file)[place]
    }
    assert without <= {"GetServerInfo"}


def test_every_enum_starts_with_unspecified(protos: list[FileDescriptorProto]) -> None:
    wrong = [
        name
        for file in protos
        for name, _, enum in enums(file)
        if enum.value[0].number != 0 or not enum.value[0].name.endswith("_UNSPECIFIED")
    ]
    assert wrong == []


def test_every_method_is_known_as_a_query_or_as_a_mutation(protos: list[FileDescriptorProto]) -> None:
    public = {method.name for file in protos for name, _, method in methods(file) if ".StyxService." in name}
    assert public == MUTATIONS | QUERIES
    assert not MUTATIONS & QUERIES


def test_every_mutation_takes_a_request_id(protos: list[FileDescriptorProto]) -> None:
    fields = fields_of_messages(protos)
    requests = request_types(protos)
    assert [name for name in MUTATIONS if "request_id" not in fields[requests[name]]] == []
    assert [name for name in QUERIES if "request_id" in fields[requests[name]]] == []


def test_every_list_comes_in_pages(protos: list[FileDescriptorProto]) -> None:
    fields = fields_of_messages(protos)
    for file in protos:
        for name, _, method in methods(file):
            if not method.name.startswith("List"):
                continue
            assert {"page_size", "page_token"} <= fields[method.input_type[1:]], name
            assert "next_page_token" in fields[method.output_type[1:]], name


def test_numbers_with_a_dimension_say_their_unit(protos: list[FileDescriptorProto]) -> None:
    """A span is a Duration and an instant a Timestamp, so no number is called a time, a timeout or a size."""
    numbers = set(range(FieldDescriptorProto.TYPE_DOUBLE, FieldDescriptorProto.TYPE_FIXED32 + 1))
    vague = ("time", "timeout", "duration", "memory", "disk", "age")
    wrong = [
        f"{name}.{field.name}"
        for file in protos
        for name, _, message in messages(file)
        for field in message.field
        if field.type in numbers and field.name.rsplit("_", 1)[-1] in vague
    ]
    assert wrong == []


def test_no_number_of_a_field_is_used_where_it_was_reserved(protos: list[FileDescriptorProto]) -> None:
    for file in protos:
        for name, _, message in messages(file):
            reserved = {n for gap in message.reserved_range for n in range(gap.start, gap.end)}
            assert not reserved & {field.number for field in message.field}, name


def fields_of_messages(protos: list[FileDescriptorProto]) -> dict[str, set[str]]:
    return {name: {field.name for field in message.field} for file in protos for name, _, message in messages(file)}


def request_types(protos: list[FileDescriptorProto]) -> dict[str, str]:
    return {method.name: method.input_type[1:] for file in protos for _, _, method in methods(file)}
