"""What a version says of itself, as messages of the protocol."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version

from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.names import VersionName
from services.inference.host.signature import Signature, Tensor
from services.inference.host.statistics import Duration, Statistics

_PLATFORM = "onnxruntime_onnx"
_BACKEND = "onnxruntime"
_EXTENSIONS = ("model_configuration", "statistics")
# What a model whose shapes all lead with one symbol says: any number of rows will do, and
# clients want a number. No batch is formed from several calls.
_MAX_BATCH = 1024

_TYPES = {
    "BOOL": pb.TYPE_BOOL,
    "UINT8": pb.TYPE_UINT8,
    "UINT16": pb.TYPE_UINT16,
    "UINT32": pb.TYPE_UINT32,
    "UINT64": pb.TYPE_UINT64,
    "INT8": pb.TYPE_INT8,
    "INT16": pb.TYPE_INT16,
    "INT32": pb.TYPE_INT32,
    "INT64": pb.TYPE_INT64,
    "FP16": pb.TYPE_FP16,
    "FP32": pb.TYPE_FP32,
    "FP64": pb.TYPE_FP64,
    "BYTES": pb.TYPE_STRING,
    "BF16": pb.TYPE_BF16,
}


def server() -> pb.ServerMetadataResponse:
    """The server's name, version and extensions."""
    try:
        number = package_version("modelyard")
    except PackageNotFoundError:  # run from the source tree
        number = "0"
    return pb.ServerMetadataResponse(name="modelyard", version=number, extensions=_EXTENSIONS)


def metadata(version: VersionName, signature: Signature) -> pb.ModelMetadataResponse:
    """The inputs and outputs of a version."""

    def tensor(t: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=t.name, datatype=t.datatype, shape=t.dims
        )

    return pb.ModelMetadataResponse(
        name=version.model,
        versions=[str(version.number)],
        platform=_PLATFORM,
        inputs=[tensor(t) for t in signature.inputs],
        outputs=[tensor(t) for t in signature.outputs],
    )


def config(version: VersionName, signature: Signature) -> pb.ModelConfigResponse:
    """The configuration; with a batch dimension, the dimensions are those after it."""
    batches = signature.batch_symbol is not None
    first = 1 if batches else 0
    return pb.ModelConfigResponse(
        config=pb.ModelConfig(
            name=version.model,
            platform=_PLATFORM,
            backend=_BACKEND,
            max_batch_size=_MAX_BATCH if batches else 0,
            input=[
                pb.ModelInput(
                    name=t.name,
                    data_type=_TYPES[t.datatype],
                    dims=t.dims[first:],
                    optional=t.optional,
                )
                for t in signature.inputs
            ],
            output=[
                pb.ModelOutput(name=t.name, data_type=_TYPES[t.datatype], dims=t.dims[first:])
                for t in signature.outputs
            ],
        )
    )


def statistics(version: VersionName, counted: Statistics) -> pb.ModelStatisticsResponse:
    """Counts and times of a version."""

    def duration(d: Duration) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=d.count, ns=d.ns)

    return pb.ModelStatisticsResponse(
        model_stats=[
            pb.ModelStatistics(
                name=version.model,
                version=str(version.number),
                last_inference=counted.last_inference_ms,
                inference_count=counted.success.count,
                execution_count=counted.executions,
                inference_stats=pb.InferStatistics(
                    success=duration(counted.success),
                    fail=duration(counted.fail),
                    queue=duration(counted.queue),
                    compute_input=duration(counted.compute_input),
                    compute_infer=duration(counted.compute_infer),
                    compute_output=duration(counted.compute_output),
                ),
            )
        ]
    )


def index(version: VersionName, *, ready: bool, only_ready: bool) -> pb.RepositoryIndexResponse:
    """The one version, as a repository lists it."""
    if only_ready and not ready:
        return pb.RepositoryIndexResponse()
    return pb.RepositoryIndexResponse(
        models=[
            pb.RepositoryIndexResponse.ModelIndex(
                name=version.model,
                version=str(version.number),
                state="READY" if ready else "UNLOADING",
            )
        ]
    )
