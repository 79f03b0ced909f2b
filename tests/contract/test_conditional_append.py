"""Appending on a condition, and creating what is appended to; forks; the newest messages; callers' keys."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from support.states import Store, messages, saved, state, texts
from support.stores import Stores

from redis_state import StateNotFoundError, VersionConflictError


class TestConditions:
    async def test_of_two_writers_exactly_one_wins(self, store: Store) -> None:
        """The other gets a conflict, and nothing of it is stored."""
        await saved(store, "s")
        calls = [store.append("a", "s", messages(f"{n}"), if_version=1) for n in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(str(type(each).__name__) for each in results) == ["VersionConflictError"] * 7 + ["int"]
        assert len((await store.load("a", "s")).messages) == 1

    async def test_a_state_as_a_condition_means_that_nobody_has_written_since(self, store: Store) -> None:
        """Also where the numbers agree: deleted and created in between is a conflict. The object stays as it is."""
        mine = state("s")
        await store.save(mine)
        loaded = await store.load("a", "s")
        assert await store.append("a", "s", messages("1"), if_version=mine) == 2
        assert (mine.version, mine.messages) == (1, [])
        with pytest.raises(VersionConflictError) as caught:
            await store.append("a", "s", messages("2"), if_version=loaded)
        assert (caught.value.expected, caught.value.stored) == (1, 2)
        await store.delete("a", "s")
        with pytest.raises(VersionConflictError) as caught:
            await store.append("a", "s", messages("2"), if_version=loaded)
        assert (caught.value.expected, caught.value.stored) == (1, 0)
        await saved(store, "s")
        with pytest.raises(VersionConflictError) as caught:
            await store.append("a", "s", messages("2"), if_version=loaded)
        assert (caught.value.expected, caught.value.stored) == (1, 1)
        assert (await store.load("a", "s")).messages == []

    async def test_where_nothing_is_stored(self, store: Store) -> None:
        with pytest.raises(StateNotFoundError):
            await store.append("a", "s", messages("1"))
        with pytest.raises(ValueError, match="create="):
            await store.append("a", "s", messages("1"), if_version=0)
        for create in (None, state("s")):
            with pytest.raises(VersionConflictError) as caught:
                await store.append("a", "s", messages("1"), if_version=3, create=create)
            assert (caught.value.expected, caught.value.stored) == (3, 0)
        assert await store.append("a", "s", messages("1"), if_version=0, create=state("s")) == 1
        with pytest.raises(VersionConflictError) as caught:
            await store.append("a", "s", messages("1"), if_version=0, create=state("s"))
        assert (caught.value.expected, caught.value.stored) == (0, 1)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"if_version": -1}, ValueError),
            ({"if_version": "1"}, TypeError),
            ({"if_version": True}, TypeError),
            ({"if_version": state("s")}, ValueError),
            ({"if_version": state("other")}, ValueError),
            ({"create": state("other")}, ValueError),
            ({"create": state("s", agent_id="b")}, ValueError),
            ({"create": {"agent_id": "a"}}, TypeError),
            ({"key": ""}, ValueError),
            ({"key": "x" * 513}, ValueError),
            ({"key": "\ud800"}, ValueError),
            ({"key": 5}, TypeError),
        ],
    )
    async def test_wrong_arguments_are_refused_and_nothing_is_written(
        self, store: Store, options: Any, error: type[Exception]
    ) -> None:
        await saved(store, "s")
        with pytest.raises(error):
            await store.append("a", "s", messages("1"), **options)
        with pytest.raises(error):
            await store.merge("a", "s", {"data": {"k": 1}}, **options)
        assert (await store.load("a", "s")).version == 1

    async def test_a_type_without_room_for_a_note_is_no_condition(self, stores: Stores) -> None:
        """There is no falling back to the number."""

        class Bare(msgspec.Struct, kw_only=True):
            agent_id: str
            session_id: str
            messages: list[str] = []
            version: int = 0

        store = await stores.open(state_type=Bare)
        await store.save(Bare(agent_id="a", session_id="s"))
        with pytest.raises(TypeError, match="dict=True"):
            await store.append("a", "s", ["x"], if_version=await store.load("a", "s"))


class TestCreation:
    async def test_first_writers_at_once_make_one_session_and_lose_no_message(self, store: Store) -> None:
        """One of their objects is stored; none is changed."""
        mine = [state("s", f"own {n}", n=n) for n in range(16)]
        calls = [store.append("a", "s", messages(f"{n}"), create=each) for n, each in enumerate(mine)]
        assert sorted(await asyncio.gather(*calls)) == list(range(1, 17))
        loaded = await store.load("a", "s")
        own, *rest = texts(loaded)
        assert own == f"own {loaded.data['n']}"
        assert sorted(rest) == sorted(map(str, range(16)))
        assert [len(each.messages) for each in mine] == [1] * 16
        assert {each.version for each in mine} == {0}
        assert await store.list("a") == ["s"]


class TestKeys:
    async def test_a_write_with_a_key_is_done_once_whatever_repeats_it(self, store: Store, stores: Stores) -> None:
        """By append, merge and save, also by another store, although the version has moved on."""
        other = store if stores.server is None else await stores.open()
        await saved(store, "s")
        assert await store.append("a", "s", messages("1"), key="job") == 2
        assert await store.append("a", "s", messages("2")) == 3
        for repeat in (store, other):
            assert await repeat.append("a", "s", messages("again"), key="job") == 2
            assert await repeat.merge("a", "s", {"data": {"k": 1}}, key="job", if_version=3) == 2
        loaded = await store.load("a", "s")
        assert (texts(loaded), loaded.data, loaded.version) == (["1", "2"], {}, 3)

    async def test_a_repeated_save_gives_its_object_what_the_first_one_made(self, store: Store) -> None:
        """So that its next conditional save conflicts if more was written since."""
        first, second = state("s", "mine"), state("s", "again")
        await store.save(first, key="job")
        await store.save(second, key="job")
        assert (second.version, second.updated_at) == (first.version, first.updated_at)
        assert texts(await store.load("a", "s")) == ["mine"]
        await store.append("a", "s", messages("more"))
        third = state("s", "again")
        await store.save(third, key="job", if_version=0)
        assert third.version == 1
        with pytest.raises(VersionConflictError):
            await store.save(third, if_version=1)

    async def test_a_save_with_a_key_remembers_the_keys_before_it(self, store: Store) -> None:
        """Also one of an object that did not know of them, and whose version does not follow."""
        await saved(store, "s")
        await store.append("a", "s", messages("1"), key="first")
        await store.save(state("s"), key="second")
        assert await store.append("a", "s", messages("1"), key="first") == 2
        assert await store.append("a", "s", messages("1"), key="second") == 1
        assert texts(await store.load("a", "s")) == []

    async def test_a_conditional_write_that_failed_leaves_no_key(self, store: Store) -> None:
        await saved(store, "s")
        with pytest.raises(VersionConflictError):
            await store.append("a", "s", messages("1"), key="job", if_version=5)
        assert await store.append("a", "s", messages("1"), key="job", if_version=1) == 2

    async def test_it_is_remembered_for_sixteen_writes_and_until_a_delete(self, store: Store) -> None:
        await saved(store, "s")
        assert await store.append("a", "s", messages("1"), key="job") == 2
        for _ in range(15):
            await store.append("a", "s", [])
        assert await store.append("a", "s", messages("1"), key="job") == 2
        await store.append("a", "s", [])
        assert await store.append("a", "s", messages("1"), key="job") == 19
        await store.delete("a", "s")
        assert await store.append("a", "s", messages("1"), key="job", create=state("s")) == 1
        assert await store.append("a", "s", messages("1"), key="job", create=state("s")) == 1

    async def test_of_many_at_once_one_writes(self, store: Store) -> None:
        await saved(store, "s")
        calls = [store.append("a", "s", messages(f"{n}"), key="job") for n in range(12)]
        assert set(await asyncio.gather(*calls)) == {2}
        assert len((await store.load("a", "s")).messages) == 1


class TestNewestMessages:
    @pytest.mark.parametrize("limit", [0, 1, 5, 99, 100, 101, 1000, None])
    async def test_they_are_the_last_ones_in_order(self, store: Store, limit: int | None) -> None:
        """Wherever they stand: in the document, behind it, before and after a fold."""
        await store.save(state("s", *map(str, range(20))))
        for number in range(20, 100):
            await store.append("a", "s", messages(f"{number}"))
        wanted = list(map(str, range(100)))[100 - min(100 if limit is None else limit, 100) :]
        assert [message.content for message in await store.load_messages("a", "s", limit=limit)] == wanted

    async def test_what_is_wrong_is_said(self, store: Store) -> None:
        with pytest.raises(StateNotFoundError):
            await store.load_messages("a", "s", limit=1)
        wrong: list[tuple[Any, type[Exception]]] = [(-1, ValueError), ("1", TypeError)]
        for limit, error in wrong:
            with pytest.raises(error):
                await store.load_messages("a", "s", limit=limit)


class TestForks:
    async def test_a_copy_begins_anew_and_the_source_stays(self, store: Store) -> None:
        """With appended messages, across agents; created once."""
        await store.save(state("s", "1", k=1))
        await store.append("a", "s", messages("2", "3"))
        source = await store.load("a", "s")
        assert await store.fork("a", "s", "copy") == 1
        assert await store.fork("a", "s", "short", new_agent_id="b", messages=2) == 1
        copy = await store.load("a", "copy")
        assert (texts(copy), copy.data, copy.version, copy.created_at) == (
            ["1", "2", "3"],
            {"k": 1},
            1,
            source.created_at,
        )
        assert copy.updated_at > source.updated_at
        assert texts(await store.load("b", "short")) == ["1", "2"]
        assert await store.load("a", "s") == source
        for target in ("copy", "s"):
            with pytest.raises(VersionConflictError):
                await store.fork("a", "s", target)
        with pytest.raises(StateNotFoundError):
            await store.fork("a", "never", "x")
        with pytest.raises(ValueError, match="messages"):
            await store.fork("a", "s", "x", messages=-1)
        assert await store.fork("a", "s", "all", messages=50) == 1
        await asyncio.gather(*(store.delete_agent(agent_id) for agent_id in ("a", "b")))
