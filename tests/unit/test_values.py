# SPDX-License-Identifier: MIT
"""Value classes: what `dataclasses` would make of them."""

from __future__ import annotations

import copy
import pickle

import pytest

from pushpull.values import astuple, field, names, replace, struct, value


@value
class Point:
    """Of a plane."""

    x: int
    y: int = 0

    def far(self) -> int:
        return self.x + self.y


@struct
class Basket:
    owner: str
    eggs: list[int] = field(default_factory=list)
    key: str = field(default_factory=str, repr=False)


@value
class Login:
    name: str
    secret: str = field(repr=False)


@value
class Nothing:
    pass


def test_fields_are_given_by_place_or_name_or_default() -> None:
    assert (Point(1).x, Point(1).y, Point(x=1, y=2).y, Point(1, y=2).far()) == (1, 0, 2, 3)
    assert (names(Point), astuple(Point(1, 2))) == (("x", "y"), (1, 2))


@pytest.mark.parametrize("call", [Point, lambda: Point(1, 2, 3), lambda: Point(1, z=3), lambda: Login("a")])
def test_what_does_not_fit_is_refused_each_time(call) -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match=r"(Point|Login)\.__init__\(\)"):
            call()


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 1)
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert (Nothing() == Nothing(), hash(Nothing()) == hash(Nothing())) == (True, True)
    assert Point(1) != (1, 0)
    assert Nothing() != Basket("a")


def test_structs_are_equal_by_their_fields_and_not_hashed() -> None:
    one, other = Basket("a"), Basket("a")
    assert one == other
    one.eggs.append(1)
    assert one != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_each_instance_gets_its_own_default() -> None:
    assert Basket("a").eggs is not Basket("a").eggs
    given = [1]
    assert Basket("a", given).eggs is given


def test_nothing_but_the_fields_can_be_set() -> None:
    with pytest.raises(AttributeError):
        Basket("a").egg = 1
    assert not hasattr(Point(1), "__dict__")


def test_a_hidden_field_is_not_shown() -> None:
    assert repr(Login("joe", "s3cret")) == "Login(name='joe')"
    assert repr(Basket("a", [1], "s3cret")) == "Basket(owner='a', eggs=[1])"
    assert repr(Nothing()) == "Nothing()"


def test_replace_changes_what_it_is_told_alone() -> None:
    point = Point(1, 2)
    assert (replace(point, y=3), point) == (Point(1, 3), Point(1, 2))
    with pytest.raises(TypeError):
        replace(point, z=1)


def test_class_and_copies_are_what_they_were() -> None:
    assert (Point.__name__, Point.__doc__, Point.__module__) == ("Point", "Of a plane.", __name__)
    assert copy.copy(Point(1, 2)) == pickle.loads(pickle.dumps(Point(1, 2))) == Point(1, 2)
    match Point(1, 2):
        case Point(1, y):
            assert y == 2
