"""The statistics of several replicas of one version, as if they were one."""

from modelyard.inference.v2 import open_inference_pb2 as oip


def summed(found: list[oip.ModelStatistics]) -> oip.ModelStatistics:
    """The sum; `found` is not empty."""
    total = oip.ModelStatistics()
    total.CopyFrom(found[0])
    for stats in found[1:]:
        total.last_inference = max(total.last_inference, stats.last_inference)
        total.inference_count += stats.inference_count
        total.execution_count += stats.execution_count
        for stage in total.inference_stats.DESCRIPTOR.fields_by_name:
            duration = getattr(total.inference_stats, stage)
            more = getattr(stats.inference_stats, stage)
            duration.count += more.count
            duration.ns += more.ns
        _sum_batches(total, stats)
    return total


def _sum_batches(total: oip.ModelStatistics, stats: oip.ModelStatistics) -> None:
    by_size = {batch.batch_size: batch for batch in total.batch_stats}
    for batch in stats.batch_stats:
        known = by_size.get(batch.batch_size)
        if known is None:
            total.batch_stats.append(batch)
            continue
        for stage in ("compute_input", "compute_infer", "compute_output"):
            duration, more = getattr(known, stage), getattr(batch, stage)
            duration.count += more.count
            duration.ns += more.ns
