"""The ``wsi-pipeline`` command: its commands, and errors as one clear sentence."""

from __future__ import annotations

import logging
import sys
import traceback

import typer

from wsi_pipeline.cli import (
    evaluate,
    export,
    imports,
    models,
    predict,
    report,
    run,
    serve,
    simulate,
    slides,
    status,
    train,
    view,
    worker,
)
from wsi_pipeline.errors import WsiPipelineError

USAGE_ERROR = 2

app = typer.Typer(
    name="wsi-pipeline",
    help="Computational haematology on whole slides. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("demo")(run.demo)
app.command("inspect")(slides.inspect)
app.command("status")(status.status)
app.command("doctor")(models.doctor)
app.command("view")(view.view)
app.command("worker")(worker.worker)
app.command("report")(report.report)
app.add_typer(models.app, name="models")
app.add_typer(simulate.app, name="simulate")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(train.app, name="train")
app.add_typer(predict.app, name="predict")
app.add_typer(export.app, name="export")
app.add_typer(imports.app, name="import")
app.add_typer(serve.app, name="serve")


def main() -> None:
    """Run the command line; exit 0 all well, 1 some slides failed, 2 bad usage or configuration."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # The last five write URLs and headers with the credentials in them.
    for noisy in (
        "numba", "matplotlib", "PIL", "asyncio", "distributed", "fsspec", "s3fs", "botocore", "aiobotocore", "aiohttp",
    ):  # fmt: skip
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not debug:
        for reader in ("tifffile", "pydicom"):  # what is wrong with a slide is in our own error, once
            logging.getLogger(reader).setLevel(logging.CRITICAL)
    try:
        app(arguments, standalone_mode=True)
    except WsiPipelineError as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
