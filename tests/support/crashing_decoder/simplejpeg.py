"""A decoder that does to its process what a JPEG's comment says; it leaves all other images to Pillow.

With this folder first on the path of a new process it stands in for the real package.
"""

import os
import re
import signal

COMMENT = re.compile(rb"\xff\xfe..decoder: (\w+) (\w+)", re.DOTALL)


def obey(data, moment: str) -> None:
    found = COMMENT.search(data)
    if found is None or found[1].decode() != moment:
        return
    order = found[2].decode()
    if order == "abort":
        os.abort()
    if order == "exit":
        os._exit(3)
    if order == "print":
        os.write(1, b"a library's message on standard output")
    if order == "bug":
        raise ZeroDivisionError("a bug")
    while order == "hang":
        pass
    if order.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, order))


def decode_jpeg_header(data):
    obey(data, "open")
    if COMMENT.search(data) is None:
        raise ValueError("not for this decoder")
    return 1, 1, "YCbCr", "420"


def decode_jpeg(data, **_):
    obey(data, "decode")
    raise ValueError("not for this decoder")
