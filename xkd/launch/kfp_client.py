"""Upstream's ``run create`` with one line for each error of a server."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click
from kfp.cli import cli, run
from kfp.client import Client
from kfp_server_api import ApiException, V2beta1GetHealthzResponse
from urllib3.exceptions import HTTPError

from xkd.errors import UserError, XkdError

TIMEOUT = 5
"""Seconds that a server has to say whether it is healthy; urllib3 makes four attempts."""


class _Client(Client):  # type: ignore[misc]
    """Upstream's client, which knows whether a server answers."""

    def get_kfp_healthz(self) -> V2beta1GetHealthzResponse:
        """Ask the server for its health, before anything is sent.

        Upstream's method asks five times, logs a traceback each time, and accepts any page as an answer.
        """
        response = self._healthz_api.healthz_service_get_healthz(
            _preload_content=False, _request_timeout=TIMEOUT
        )
        try:
            return V2beta1GetHealthzResponse(multi_user=bool(json.loads(response.data).get("multi_user")))
        except (AttributeError, ValueError):
            kind = response.headers.get("Content-Type", "no type")
            raise HTTPError(f"an answer of {kind}, perhaps a page to log in") from None


def create_run(file: Path, options: Sequence[str], values: Mapping[str, Any]) -> None:
    """Run upstream's ``run create``.

    Args:
        file: the pipeline's file, for messages.
        options: words before ``run create``, such as ``--endpoint URL``.
        values: parameters of ``run create``.

    Raises:
        UserError: an option is wrong, there is no server, or it refuses the run.
        XkdError: anything else that fails.
    """
    warnings.filterwarnings("ignore", module="kfp")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        with cli.cli.make_context("kfp", [*options, "run"], auto_envvar_prefix="KFP") as context:
            client = _connect(file, context.params)
            context.obj = {"client": client, "output": context.params["output"]}
            context.invoke(run.create, **values)
    except click.UsageError as error:
        raise UserError(f"kfp: {error.format_message()}") from None
    except ApiException as error:
        kind = UserError if 400 <= error.status < 500 else XkdError
        raise kind(f"the server refused the run: {_describe(error)}") from None
    except (UserError, XkdError):
        raise
    except Exception as error:  # upstream's command too reports every error by its message
        raise XkdError(" ".join(f"{type(error).__name__}: {error}".split())) from None


def _connect(file: Path, options: Mapping[str, Any]) -> _Client:
    """Return a client of a server that answers."""
    # Without an address the client looks for a kubeconfig, and prints that there is none.
    given = options["endpoint"] or os.environ.get("KF_PIPELINES_ENDPOINT")
    names = ("iap_client_id", "namespace", "other_client_id", "other_client_secret", "existing_token")
    try:
        with nullcontext() if given else redirect_stdout(io.StringIO()):
            client = _Client(options["endpoint"], *(options[name] for name in names))
        client.get_kfp_healthz()
    except (ApiException, HTTPError) as error:
        raise UserError(
            f"no Kubeflow Pipelines server responds{f' at {given}' if given else ''} ({_describe(error)}); "
            f"give its address with `kfp --endpoint URL run submit {file}`, a token with --existing-token, "
            f"or run on this machine with `kfp run submit {file} --local`"
        ) from None
    return client


def _describe(error: ApiException | HTTPError) -> str:
    """Return an error in one line, with the message of the server, if any."""
    if isinstance(error, HTTPError):
        return " ".join(str(getattr(error, "reason", error)).split())
    try:
        message = f": {json.loads(error.body)['message']}"
    except (KeyError, TypeError, ValueError):
        message = ""
    return " ".join(f"{error.status} {error.reason}{message}".split())
