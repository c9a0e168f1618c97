"""The FUSE door: a rule's tree as a mount, for programs that know nothing of lddp.

protocol.py    the kernel's numbers; wire.py its messages as bytes
session.py     one open /dev/fuse: requests in, answers out, many in flight
mounting.py    mount(2), fusermount3, umount2
filesystem.py  which request means what; names.py, metadata.py, data.py say how
file.py        an open file: the zone's own bytes, or a private copy while somebody writes
files.py       all of them
passthrough.py files that the kernel reads by itself; backing.py what is asked of it for that
streaming.py   what is written in order is sent before it is committed
committing.py  from a private copy to records of the log
ordering.py    records through the gateway, hard or soft, about an object whatever its name is by then
following.py   what other zones change, told to the kernel
pipeline.py    the pipelined mode: a queue, and how it goes into the log; queued.py is one operation of it
speculation.py the namespace with what is queued; promised.py shows it to the rest
errors.py      what was promised and refused, until it is told
mount.py       all of these together, from mount(2) to the end
"""
