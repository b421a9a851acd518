"""YAML as people write settings: text, numbers, true and false, lists and mappings, and every key once.

What the rest of the language can do, a file from a stranger must not: tags that make other objects, a few hundred bytes
of aliases that stand for gigabytes, lists that hold themselves. A date is text, so are ``yes``, ``no``, ``1:30`` (90
in YAML 1.1) and ``010`` (8 there): as in YAML 1.2 (https://yaml.org/spec/1.2.2, section 10.3).
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_DEEPEST, _LARGEST = 50, 1_000_000  # levels; values, with what aliases stand for written out
_TAG = "tag:yaml.org,2002:"


def load(text: str) -> Any:
    """Return what a document says.

    Raises:
        ValueError: When it is not YAML, or more of it than the above; says where.
    """
    try:
        return yaml.load(text, _Plain)  # it knows even less than SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


class _Plain(yaml.SafeLoader):
    _depth = 0

    def compose_document(self) -> Node | None:
        """Return a document whose size is bounded."""
        document: Node | None = super().compose_document()
        if document is not None:
            _count(document, {})
        return document

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Return a node that lies not too deep and has no tag of its own."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise ComposerError(None, None, f"tags such as {event.tag} are not read", event.start_mark)
        if self._depth >= _DEEPEST:
            raise ComposerError(None, None, f"more than {_DEEPEST} levels", event.start_mark)
        self._depth += 1
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Return a mapping that has no key twice: YAML's own parsers take the last and say nothing."""
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if key.value in seen:
                    raise ComposerError(None, None, f"the key {key.value!r} stands there twice", key.start_mark)
                seen.add(key.value)
        return node


_OTHERWISE = {f"{_TAG}{name}" for name in ("timestamp", "bool", "int", "float")}  # in YAML 1.1
_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _OTHERWISE]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver(f"{_TAG}bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Plain.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?(?:0|[1-9]\d*)$|0x[\da-fA-F]+$"), list("-+0123456789"))
_Plain.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"),
    list("-+.0123456789"),
)


def _count(node: Node, known: dict[int, int | None]) -> int:
    """Return how many values a node holds when every alias is written out."""
    if known.get(id(node), 0) is None:
        raise ComposerError(None, None, "this holds itself", node.start_mark)
    if id(node) not in known:
        known[id(node)] = None
        inner: list[Node] = []
        if isinstance(node, SequenceNode):
            inner = node.value
        elif isinstance(node, MappingNode):
            inner = [part for pair in node.value for part in pair]
        size = 1 + sum(_count(part, known) for part in inner)
        if size > _LARGEST:
            raise ComposerError(None, None, f"its aliases stand for more than {_LARGEST} values", node.start_mark)
        known[id(node)] = size
    return known[id(node)] or 0
