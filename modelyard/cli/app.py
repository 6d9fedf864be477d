"""All commands."""

import typer

from modelyard.cli import archive, catalog, inference, routes, run, serve, shadow, top

app = typer.Typer(
    name="modelyard",
    help="Model-as-a-service over gRPC: every call is a race that ends inside its deadline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.up,
    serve.serve,
    run.demo,
    catalog.register,
    catalog.models,
    catalog.versions,
    catalog.label,
    catalog.rollback,
    routes.route,
    inference.infer,
    shadow.feedback,
    catalog.load,
    catalog.unload,
    catalog.delete,
    catalog.history,
    catalog.hosts,
    top.top,
    run.version,
):
    app.command()(command)
app.add_typer(shadow.app, name="shadow")
app.add_typer(archive.app, name="archive")
