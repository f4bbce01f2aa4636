"""Room for bodies and images: nothing is kept, and nothing is counted twice."""

import asyncio

import pytest
from fastapi import HTTPException
from starlette.requests import ClientDisconnect

from uniemox.serve.limits import Admission, read_body


async def parts(*given, pause=0.0):
    for part in given:
        await asyncio.sleep(pause)
        yield part


def read(admission, *given, declared=None, seconds=5.0, pause=0.0):
    async def run():
        with admission.admit() as ticket:
            body = await read_body(parts(*given, pause=pause), ticket, declared=declared, seconds=seconds)
            return body, admission.bytes

    return asyncio.run(run())


def test_a_body_is_what_arrived_and_its_room_is_given_back():
    admission = Admission(10, 100)
    assert read(admission, b"ab", b"", b"cde") == (b"abcde", 5)
    assert admission.bytes == 0


@pytest.mark.parametrize("declared", ["101", "9" * 5000, None, "3", "-1", "many"])
def test_a_large_body_is_refused_whatever_its_head_declares(declared):
    admission = Admission(10, 100)
    with pytest.raises(HTTPException) as refused:
        read(admission, b"a" * 60, b"b" * 60, declared=declared)
    assert refused.value.status_code == 413
    assert admission.bytes == 0


def test_a_body_by_its_head_too_large_is_not_read():
    async def unread():
        raise AssertionError
        yield b""

    async def run():
        with Admission(10, 100).admit() as ticket:
            await read_body(unread(), ticket, declared="101", seconds=1)

    with pytest.raises(HTTPException, match="413"):
        asyncio.run(run())


def test_a_body_that_drips_is_refused_in_time():
    with pytest.raises(HTTPException) as refused:
        read(Admission(10, 100), *[b"a"] * 50, seconds=0.05, pause=0.02)
    assert refused.value.status_code == 408


def test_a_client_that_leaves_is_no_failure():
    async def broken():
        yield b"a"
        raise ClientDisconnect

    async def run():
        with Admission(10, 100).admit() as ticket:
            await read_body(broken(), ticket, declared=None, seconds=5)

    with pytest.raises(HTTPException, match="the client left"):
        asyncio.run(run())


def test_all_bodies_together_are_limited():
    admission = Admission(10, 200 * 2**20)
    piece = bytes(150 * 2**20)
    with admission.admit() as first, admission.admit() as second:
        for ticket in (first, second):
            for _ in range(2):
                ticket.take_bytes(len(piece) // 2)
    assert admission.bytes == 0
    with admission.admit() as first:
        first.take_bytes(100)
        admission.bytes = 800 * 2**20
        with pytest.raises(HTTPException) as refused:
            first.take_bytes(1)
        assert refused.value.status_code == 429
        admission.bytes = 100


def test_images_wait_for_room_and_give_it_back():
    admission = Admission(5, 100, seconds_per_image=2.0)
    with admission.admit() as first:
        first.take_images(4)
        with admission.admit() as second, pytest.raises(HTTPException) as refused:
            second.take_images(2)
        assert refused.value.status_code == 429
        assert refused.value.headers == {"Retry-After": "8"}
        with admission.admit() as third:
            third.take_images(1)
        assert admission.images == 4
    assert admission.images == 0


def test_more_than_there_ever_is_room_for_is_not_worth_another_try():
    with Admission(5, 100).admit() as ticket, pytest.raises(HTTPException) as refused:
        ticket.take_images(6)
    assert refused.value.status_code == 413


def test_nobody_is_asked_to_wait_for_ever():
    refused = Admission(1000, 100, images=1000, seconds_per_image=60.0).refuse("full")
    assert refused.headers == {"Retry-After": "60"}
