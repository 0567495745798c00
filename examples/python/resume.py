"""Loads a file line by line and never twice, however often it is killed and started again:
`python resume.py shop.kq lines.txt`."""

import sys

import keepq

path, source = sys.argv[1], sys.argv[2]

with keepq.open(path) as kq, open(source, "rb") as file:
    loader = kq.producer("loader")
    begun = loader.next_seq
    for number, line in enumerate(file):
        if number >= begun:
            loader.send_async("lines", line.rstrip(b"\n"), seq=number)
    kq.flush()
    print(f"{begun} lines were there, {loader.next_seq - begun} were sent")
