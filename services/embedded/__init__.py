"""Gateway and models in one process, for the edge and for programs: no Redis, no registry.

The one package that imports two rooms: it puts them together (docs/adr/0014).
"""
