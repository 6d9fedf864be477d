"""Takes over a host that an earlier supervisor began."""

from services.inference import lifecycle
from services.inference.lifecycle import Host, Phase
from services.inference.ports import Probes
from services.inference.processes import HostProcess, read_stages


async def recognise(process: HostProcess, probes: Probes, now: float) -> Host:
    """The host behind a living process, from its record, from what it said, and from its answer.

    One that was asked to end is asked again unless it has begun to; one that says it serves and
    does not answer for its version is killed.

    Args:
        process: The process.
        probes: Asks the host.
        now: In seconds of the supervisor's clock.
    """
    record = process.record
    host = Host(
        id=record.id,
        version=record.version,
        digest=record.digest,
        phase=Phase.LOADING,
        since=now,
        pid=record.pid,
        restarts=record.restarts,
    )
    said = {stage["stage"]: stage for stage in read_stages(record.stages) if "stage" in stage}
    if record.unwanted or "draining" in said:
        if "draining" not in said:
            process.terminate()  # A second signal would cut its calls short.
        return lifecycle.draining(host, "no longer wanted", now)
    if "serving" not in said:
        return host
    serving = said["serving"]
    host = lifecycle.serving(
        host, serving.get("address", ""), now, serving.get("frames_address", "")
    )
    if await probes.serves(host.address, host.version):
        return host
    process.kill()
    return lifecycle.stopping(host, "adopted, and did not answer", now)
