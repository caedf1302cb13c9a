# SPDX-License-Identifier: MIT
"""A program on a terminal of its own: what stands on the screen, as a VT100 would show it, and keys typed to it."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time


class Terminal:
    """with Terminal(command, env) as t: …   `strange` is what came that a program has no business to send. Where keys are
    words of terminfo, they are the VT100's."""

    def __init__(self, command, env, lines=24, columns=100, term="vt100", **more):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.rest, self.row, self.column, self.strange = "", 0, 0, []
        self.resize_screen(lines, columns)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                # The size is there before the program looks.
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
                env = {key: value for key, value in env.items() if key not in ("LINES", "COLUMNS")}
                os.execve(command[0], command, {**env, "LC_ALL": "C.UTF-8", **more, "TERM": term})
            finally:
                os._exit(127)
        self.status = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def resize_screen(self, lines, columns):
        self.lines, self.columns = lines, columns
        self.cells = [[" "] * columns for _ in range(lines)]

    def resize(self, lines, columns):
        self.resize_screen(lines, columns)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def control(self, parameters, final):
        numbers = [int(n) if n else 0 for n in parameters.lstrip("?").split(";")]
        n = max(numbers[0], 1)
        if final in "Hf":
            self.row, self.column = n - 1, max((numbers + [1])[1], 1) - 1
        elif final in "ABCD":
            self.row += {"A": -n, "B": n}.get(final, 0)
            self.column += {"D": -n, "C": n}.get(final, 0)
        elif final == "J":
            self.clear(self.row, self.column if numbers[0] == 0 else 0, self.lines)
        elif final == "K":
            begin, end = ((self.column, self.columns), (0, self.column + 1), (0, self.columns))[numbers[0]]
            self.cells[self.row][begin:end] = [" "] * (end - begin)
        elif final not in "mhlr":
            self.strange.append("CSI %s%s" % (parameters, final))
        self.row = min(max(self.row, 0), self.lines - 1)
        self.column = min(max(self.column, 0), self.columns - 1)

    def clear(self, row, column, end):
        self.cells[row][column:] = [" "] * (self.columns - column)
        for i in range(row + 1, end):
            self.cells[i] = [" "] * self.columns

    def put(self, c):
        if c == "\r":
            self.column = 0
        elif c == "\n":
            if self.row == self.lines - 1:
                self.cells = self.cells[1:] + [[" "] * self.columns]
            else:
                self.row += 1
        elif c == "\t":
            self.column = min((self.column // 8 + 1) * 8, self.columns - 1)
        elif c == "\b":
            self.column = max(self.column - 1, 0)
        elif c in "\x0e\x0f\0":
            pass
        elif ord(c) < 32 or 0x7f <= ord(c) < 0xa0 or c == "\u202e":
            self.strange.append(repr(c))
        else:
            self.cells[self.row][min(self.column, self.columns - 1)] = c
            self.column += 1

    def feed(self, data):
        text = self.rest + self.decoder.decode(data)
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self.put(text[at])
                at += 1
                continue
            m = re.compile(r"\x1b(?:\[([0-9;?]*)([A-Za-z])|[()][A-Z0-9]|[=>78M])").match(text, at)
            if not m:
                break  # the rest of it is still to come
            if m.group(2):
                self.control(m.group(1), m.group(2))
            at = m.end()
        self.rest = text[at:]

    def read(self, seconds):
        """What comes within that time. False: the program has ended."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.feed(data)
        return bool(data)

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.cells)

    def wait(self, pattern, seconds=20):
        """Until the screen matches; the match."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            m = re.search(pattern, self.text(), re.M)
            if m:
                return m
            assert self.read(0.05), "it ended:\n" + self.text()
        raise AssertionError("no %r within %g s:\n%s" % (pattern, seconds, self.text()))

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def end(self, seconds=20):
        """Waits for it to end by itself; its exit status."""
        end = time.monotonic() + seconds
        while self.read(0.05):
            assert time.monotonic() < end, "it does not end:\n" + self.text()
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status
