"""``aha serve``: a model behind an OpenAI-style endpoint."""

from __future__ import annotations

import socket as sockets
import sys
from typing import Annotated

import typer

from aha.cli_models import Dtype, ModelPath, Template, check_dtype
from aha.errors import UsageError
from aha.terminal import shorten


def serve(
    model: ModelPath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, which is printed.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in; there is no password.")] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="its folder's name")
    ] = None,
    template: Template = None,
    dtype: Dtype = "float32",
) -> None:
    """Serve a model by OpenAI's API: completions, chat completions, log-probabilities; requests are batched.

    Example: aha serve runs/r1_tiny/r1 --port 8000
    """
    check_dtype(dtype)
    try:
        import uvicorn

        from aha.serve.api import Served, build_app
    except ImportError as error:
        raise UsageError(f"aha serve needs {error.name}: install it with pip install 'aha[serve]'") from None
    import torch

    from aha.model.config_file import model_folder
    from aha.serve.batching import build_batcher
    from aha.stages.generate import open_model

    folder = model_folder(model)
    policy, origin = open_model(model, template=template, dtype=getattr(torch, dtype))
    called = name or (model.parent.name if model.name == "model" else model.name)
    app = build_app(Served(called, policy, folder, build_batcher(policy)))
    socket = _listen(host, port)
    print(f"template {origin}: {shorten(policy.renderer.template, 200)}", file=sys.stderr)
    print(f"serving {called} at http://{host}:{socket.getsockname()[1]}/v1", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[socket])


def _listen(host: str, port: int) -> sockets.socket:
    """Bound before anything is printed, so that the printed address can be asked at once."""
    try:
        return sockets.create_server((host, port))
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; --port 0 takes a free one") from None
