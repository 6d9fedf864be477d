"""Several gateway processes behind one port: `--workers N`.

`process` is the parent: it starts an Envoy that owns the port and spreads calls over the workers
(`config` is what it is told), keeps the workers alive (`keeper`, `child`), says by health whether
one serves, and adds up their metrics (`merging`). A worker is an ordinary gateway on a unix
socket that knows the others (`group`, `siblings`) and tells them what it has counted (`servicer`).
"""
