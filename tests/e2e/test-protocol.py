#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moed-protocol(7) is enough to write a client: this one uses nothing of ours, and gets what the reference says."""

import array
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import time

from moedtest import Daemon, greedy, prompts

F_GET_SEALS, F_SEAL_SHRINK, F_SEAL_GROW = 1034, 2, 4
ACCEPTED, PROGRESS, TOKEN, TEXT, DONE, REASON, ERROR, ECHO = range(1, 9)


def pack(value):
    """msgpack, as much as requests need."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return struct.pack(">BQ", 0xcf, value)
    if isinstance(value, str):
        data = value.encode()
        return struct.pack(">BH", 0xda, len(data)) + data
    if isinstance(value, list):
        return struct.pack(">BH", 0xdc, len(value)) + b"".join(map(pack, value))
    return struct.pack(">BH", 0xde, len(value)) + b"".join(pack(k) + pack(v) for k, v in value.items())


def unpack(data):
    value, at = unpack_at(data, 0)
    assert at == len(data)
    return value


def unpack_at(d, at):
    c, at = d[at], at + 1
    if c < 0x80:
        return c, at
    if c < 0x90 or c in (0xde, 0xdf):
        n, at = (c & 15, at) if c < 0x90 else number(d, at, 2 if c == 0xde else 4)
        out = {}
        for _ in range(n):
            key, at = unpack_at(d, at)
            out[key], at = unpack_at(d, at)
        return out, at
    if c < 0xa0 or c in (0xdc, 0xdd):
        n, at = (c & 15, at) if c < 0xa0 else number(d, at, 2 if c == 0xdc else 4)
        out = []
        for _ in range(n):
            item, at = unpack_at(d, at)
            out.append(item)
        return out, at
    if c < 0xc0 or c in (0xd9, 0xda, 0xdb):
        n, at = (c & 31, at) if c < 0xc0 else number(d, at, 1 << (c - 0xd9))
        return d[at:at + n].decode(), at + n
    if c in (0xc0, 0xc2, 0xc3):
        return {0xc0: None, 0xc2: False, 0xc3: True}[c], at
    if c in (0xc4, 0xc5, 0xc6):
        n, at = number(d, at, 1 << (c - 0xc4))
        return d[at:at + n], at + n
    if c == 0xcb:
        return struct.unpack_from(">d", d, at)[0], at + 8
    if 0xcc <= c <= 0xcf:
        return number(d, at, 1 << (c - 0xcc))
    assert c >= 0xe0, hex(c)
    return c - 256, at


def number(d, at, size):
    return int.from_bytes(d[at:at + size], "big"), at + size


class Client:
    def __init__(self, path, **hello):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(path)
        self.ids = 0
        self.fds = []
        self.hello = self.ask("hello", version=1, name="protocol", **hello)
        if "error" in self.hello:
            return
        client, daemon, self.bell, self.wake = self.fds
        for fd, size in ((client, self.hello["client_size"]), (daemon, self.hello["daemon_size"])):
            seals = fcntl.fcntl(fd, F_GET_SEALS)
            assert seals & F_SEAL_SHRINK and seals & F_SEAL_GROW and os.fstat(fd).st_size == size
        self.client = mmap.mmap(client, self.hello["client_size"])
        self.daemon = mmap.mmap(daemon, self.hello["daemon_size"], prot=mmap.PROT_READ)
        # Indices are read and written through these, a whole word at once; struct goes byte by byte, from zero.
        self.client_words = memoryview(self.client).cast("I")
        self.daemon_words = memoryview(self.daemon).cast("I")
        try:
            mmap.mmap(daemon, self.hello["daemon_size"])
            raise AssertionError("the daemon's memory can be written")
        except PermissionError:
            pass
        self.tail = self.head = self.rung = self.arm = 0

    def ask(self, verb, **keys):
        self.ids += 1
        self.socket.send(pack({"verb": verb, "id": self.ids, **keys}))
        data, ancillary, _, _ = self.socket.recvmsg(262144, socket.CMSG_SPACE(32))
        for _, _, payload in ancillary:
            fds = array.array("i")
            fds.frombytes(payload)
            self.fds += list(fds)
        reply = unpack(data)
        assert reply["id"] == self.ids
        return reply

    def word(self, offset):
        return self.daemon_words[offset // 4]

    def ring(self):
        sleeping = self.word(128)
        if sleeping & 1 and sleeping != self.rung:
            self.rung = sleeping
            os.write(self.bell, struct.pack("=Q", 1))

    def submit(self, op, request, offset=0, data=b""):
        at = self.hello["arena_offset"] + offset
        self.client[at:at + len(data)] = data
        slot = self.hello["submissions"] + 64 * (self.tail % self.hello["entries"])
        struct.pack_into("<IIQQQ4Q", self.client, slot, op, 0, request, offset, len(data), 0, 0, 0, 0)
        self.tail = self.tail + 1 & 0xffffffff
        self.client_words[0] = self.tail
        self.ring()

    def sleep(self):
        """By the wake descriptor. CPython's calls order memory well enough on x86; elsewhere the timeout does."""
        self.arm += 4
        self.client_words[32] = self.arm | 2
        if self.word(64) == self.head:
            select.select([self.wake, self.socket], [], [], 0.5)
        self.client_words[32] = self.arm
        try:
            os.read(self.wake, 64)
        except BlockingIOError:
            pass

    def next(self, seconds=20):
        end = time.monotonic() + seconds
        while self.word(64) == self.head:
            assert time.monotonic() < end, "no event came"
            self.sleep()
        slot = self.hello["completions"] + 64 * (self.head % self.hello["entries"])
        c = struct.unpack_from("<QQBBHiIfI28s", self.daemon, slot)
        self.head = self.head + 1 & 0xffffffff
        self.client_words[16] = self.head
        if self.word(64) == self.head and self.word(256):
            self.ring()
        keys = ("request", "activations", "event", "text_length", "detail", "token", "value", "logprob", "cap", "text")
        event = dict(zip(keys, c))
        event["text"] = event["text"][:event["text_length"]]
        return event

    def until_end(self):
        events = [self.next()]
        while events[-1]["event"] not in (DONE, ERROR):
            events.append(self.next())
        return events


def generate(model, kind, prompt, stops=(), flags=4, max_tokens=24, experts=0):
    stop_bytes = b"".join(struct.pack("<I", len(s)) + s for s in stops)
    head = struct.pack("<9If I f f f f f 2I Q 6Q".replace(" ", ""), 128, model, flags, kind, len(prompt), len(stops),
                       len(stop_bytes), max_tokens, experts, 0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0, 0, 0, *[0] * 6)
    assert len(head) == 128
    return head + stop_bytes + prompt


def tokens_of(ids):
    return struct.pack("<%di" % len(ids), *ids)


with Daemon() as d:
    c = Client(d.socket, entries=8, arena=65536)
    assert c.hello["version"] == 1 and c.hello["entries"] == 8 and c.hello["arena"] == 65536
    model = c.ask("open")["handle"]
    layers = c.ask("models")["models"][0]

    c.submit(3, 77)
    echo = c.next()
    assert echo["event"] == ECHO and echo["request"] == 77

    # Tokens: more events than the ring has slots.
    for i, (prompt, expected) in enumerate(zip(prompts(), greedy())):
        c.submit(1, 100 + i, 64 * i, generate(model, 2, tokens_of(prompt)))
        events = c.until_end()
        assert events[0]["event"] == ACCEPTED and events[0]["value"] == len(prompt)
        told = c.ask("explain", number=events[0]["token"])
        assert told["number"] == events[0]["token"] > 0 and events[0]["detail"] == 0 and told["prompt"] == len(prompt) and told["outcome"] == "length"
        tokens = [e for e in events if e["event"] == TOKEN]
        assert [e["token"] for e in tokens] == expected
        assert all(e["value"] == layers["moe_layers"] * layers["experts_used"] for e in tokens)
        assert events[-1]["detail"] == 2 and events[-1]["value"] == 24
        assert events[-1]["activations"] == (len(prompt) + 23) * layers["moe_layers"] * layers["experts_used"]

    # Text, a cap, a stop string that is the end of what came without it.
    whole = generate(model, 1, b"Hello", max_tokens=8, experts=1000)
    c.submit(1, 200, 0, whole)
    events = c.until_end()
    assert {e["cap"] for e in events if e["event"] == TOKEN} == {1000}
    text = b"".join(e["text"] for e in events)
    c.submit(1, 201, 128, generate(model, 1, b"Hello", stops=[b"never", text[4:8]], max_tokens=8, experts=1000))
    stopped = c.until_end()
    assert stopped[-1]["detail"] == 3
    assert b"".join(e["text"] for e in stopped) == text[:text.index(text[4:8])]

    # A conversation; this model has no template.
    message = struct.pack("<II", 2, 2) + b"hi"
    c.submit(1, 202, 0, generate(model, 3, message, max_tokens=2))
    assert "template" not in layers and c.until_end()[-1]["event"] == DONE

    # Cancel.
    c.submit(1, 203, 0, generate(model, 2, tokens_of(prompts()[0]), max_tokens=0))
    while c.next()["event"] != TOKEN:
        pass
    c.submit(2, 203)
    assert c.until_end()[-1]["detail"] == 4

    # A reason in several pieces.
    c.submit(1, 204, 0, generate(99, 2, tokens_of([1])))
    events = c.until_end()
    assert events[-1]["event"] == ERROR and events[-1]["detail"] == errno.ENOENT
    assert b"handle 99" in b"".join(e["text"] for e in events)

    assert c.ask("nonsense")["error"] == errno.EOPNOTSUPP
    assert c.ask("hello", version=1)["error"] == errno.EPROTO
    ids = c.ask("tokenize", text="Hello", bos=False)["tokens"]
    assert c.ask("detokenize", tokens=ids)["text"] == b"Hello"
    assert c.ask("cancel", request=12345)["found"] is False
    assert {"peers", "id"} == set(c.ask("ps"))
    assert c.ask("budget")["budgets"]

    # What is asked for in the wrong way is refused, and nothing has changed.
    for verb, keys, error in (
            ("budget", {"set": {"principal": "default", "Weight": "1"}, "reset": "default"}, errno.EINVAL),
            ("budget", {"set": {"principal": "default", "Weight": "0"}}, errno.EINVAL),
            ("budget", {"set": {"principal": "default", "Weight": 7}}, errno.EINVAL),
            ("budget", {"set": {"principal": "default", "W" * 64: "1"}}, errno.EINVAL),
            ("budget", {"set": {"principal": "default"}}, errno.EINVAL),
            ("budget", {"set": {"Weight": "1"}}, errno.EINVAL),
            ("budget", {"set": "default"}, errno.EINVAL),
            ("budget", {"set": {"principal": "uid:root", "Weight": "1"}}, errno.EINVAL),
            ("budget", {"reset": "gid:root"}, errno.EINVAL),
            ("budget", {"principal": "uid:root"}, errno.EINVAL),
            ("budget", {"set": {"principal": "default", "Weight": "1"}, "save": "yes"}, errno.EINVAL),
            ("budget", {"reset": "default"}, errno.ENOENT),
            ("budget", {"reset": 1}, errno.EINVAL),
            ("budget", {"principal": "anybody"}, errno.EINVAL),
            ("cancel", {"number": "1"}, errno.EINVAL),
            ("cancel", {}, errno.EINVAL),
            ("explain", {"number": 1 << 63}, errno.ENOENT),
            ("explain", {"number": "1"}, errno.EINVAL),
            ("explain", {"limit": 1 << 32}, errno.EINVAL),
            ("stats", {"experts": "nobody"}, errno.ENOENT),
            ("stats", {"experts": 1}, errno.EINVAL),
            ("stats", {"experts": layers["name"], "from": "0"}, errno.EINVAL),
            ("stats", {"cost": 1}, errno.EINVAL)):
        reply = c.ask(verb, **keys)
        assert reply.get("error") == error and reply["reason"], (verb, keys, reply)
    assert c.ask("budget")["rules"] == []
    assert c.ask("stats", experts=layers["name"], **{"from": 0xffffffff})["layers"] == []

    old = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old.connect(d.socket)
    old.send(pack({"verb": "hello", "id": 1, "version": 9}))
    reply = unpack(old.recv(4096))
    assert reply["error"] == errno.EPROTONOSUPPORT and "version 9" in reply["reason"] and "version 1" in reply["reason"], reply

    # Breaking the protocol ends this connection, with a reason.
    c.submit(9, 1)
    data = c.socket.recv(4096)
    farewell = unpack(data)
    assert farewell["event"] == "closed" and "operation 9" in farewell["reason"], farewell
    assert c.socket.recv(4096) == b"" and c.word(192) == 1
print("ok")
