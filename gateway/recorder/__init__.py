"""The recorder: a process beside the gateway that makes records of calls and writes them.

What a record costs, it costs here: events, redaction, payloads put aside, Redis. The gateway's
loop, on which every call waits, hands over what it knows of a call and no more. Whatever the
recorder meets, no call meets it: while it is away, records wait in the gateway, and then are
dropped and counted.

`facts` is what is told of a call, `frames` how it is carried, `link` the gateway's end of it; the
rest runs in the process, `python -m gateway.recorder`.
"""
