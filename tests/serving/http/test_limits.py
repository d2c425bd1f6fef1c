"""The depth of a body is counted without decoding it."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http.errors import HttpError
from serving.http.limits import check_depth, check_texts

keys = st.text(alphabet='"[{\\', max_size=3)
trees = st.recursive(
    st.none() | st.booleans() | st.text(alphabet='ab"\\[]{}\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


def depth_of(tree: Any) -> int:
    """A second implementation: on the decoded tree."""
    if isinstance(tree, dict):
        return 1 + max(map(depth_of, tree.values()), default=0)
    return 1 + max(map(depth_of, tree), default=0) if isinstance(tree, list) else 0


@given(trees, st.integers(0, 6))
def test_depth_agrees_with_the_decoded_tree(tree: Any, limit: int) -> None:
    """Brackets inside of strings are text; one escape read wrongly lets any depth through, or refuses texts."""
    body = json.dumps(tree).encode()
    if depth_of(tree) > limit:
        with pytest.raises(HttpError, match=f"nests {depth_of(tree)} brackets") as refused:
            check_depth(body, limit)
        assert (refused.value.status, refused.value.code) == (400, "too_deep")
    else:
        check_depth(body, limit)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_count(body: bytes) -> None:
    """It runs before anything has looked at the body."""
    with contextlib.suppress(HttpError):
        check_depth(body, 3)


@pytest.mark.parametrize(
    "body",
    [b"[" * 1_000_000, b'"' + b'\\"' * 500_000, b'"\\' * 500_000, b'"a",' * 250_000, b'{"' * 500_000],
    ids=["brackets", "escapes", "open strings", "many strings", "open objects"],
)
def test_a_hostile_megabyte_costs_milliseconds(body: bytes) -> None:
    """The count runs on the event loop: a quadratic scan would stop the server for minutes."""
    start = time.process_time()
    with contextlib.suppress(HttpError):
        check_depth(body + b"[]" * 20, 16)
    assert time.process_time() - start < 2.0


def test_what_is_just_allowed_is_allowed() -> None:
    """A client that sends as many as the documentation says must not be refused."""
    check_texts((("abc", "abc"), ("abc",)), 2, 3)
    for max_texts, max_characters in ((1, 3), (2, 2)):
        with pytest.raises(HttpError) as refused:
            check_texts((("abc", "abc"), ("abc",)), max_texts, max_characters)
        assert (refused.value.status, refused.value.code) == (413, "too_large")
    with pytest.raises(HttpError, match="text 1 has 4 characters"):
        check_texts((("abc", "abc"), ("abc", "abcd")), 2, 3)
