"""MLflow's deployment target `feedback-loop`: `mlflow deployments create|update|list|get|predict|explain|delete`.

MLflow takes from this module its only client class, `run_local` and `target_help`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from click import ClickException
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST

from feedback_loop.clock import format_moment, system_clock
from feedback_loop.config import CONFIG_VARIABLE, FILE_NAME, load_settings
from feedback_loop.errors import FeedbackLoopError, NotFound, Refused, Unavailable
from feedback_loop.mlflow_plugin import server_process
from feedback_loop.mlflow_plugin.calling import Server
from feedback_loop.mlflow_plugin.preparing import (
    OF_COMMAND,
    OF_MODEL,
    OF_SERVER,
    OF_VERSION,
    Wish,
    check_options,
    prepare,
    promote,
)
from feedback_loop.mlflow_plugin.server_process import Deployment
from feedback_loop.private import private_files
from feedback_loop.registry import Registry
from feedback_loop.serving.server import refuse_taken

FOLDER = "deployments"
"""Beside the configuration: a folder for each deployment."""

FLAVOR = "python_function"
"""What MLflow calls a model that any flavor may have made; how it is scored is ours to choose."""

WAIT_SECONDS = 600.0
"""So long may a server take until it answers, where nothing else is said."""

_LOOK_SECONDS = 0.2


class DeploymentError(MlflowException, ClickException):
    """What MLflow's callers expect to be raised; its commands print it as one line. `code` is one of MLflow's."""

    def __init__(self, message: str, code: int = INVALID_PARAMETER_VALUE) -> None:
        MlflowException.__init__(self, message, code)


class FeedbackLoopDeployments(BaseDeploymentClient):
    """Deployments of one configuration: each a server of one model, whose champion it answers with."""

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Writes the configuration (or adds the model to it), promotes the version, starts a server; waits for it.

        For `config` see `target_help`. Raises DeploymentError.
        """
        with _as_mlflows():
            _refuse(flavor=flavor, endpoint=endpoint)
            folder, options = self._folder(name), _texts(config)
            seconds = _seconds(options)
            if not server_process.claim(folder):
                stopped = "" if server_process.is_running(folder) else f" It is stopped. {self._start(name)}"
                raise DeploymentError(f"There is a deployment {name!r} already.{stopped}", RESOURCE_ALREADY_EXISTS)
            try:
                deployment = _prepared(self._config, name, Wish(model_uri, options))
                _check_address(deployment)
                server_process.start(deployment, folder)
                _wait(deployment, folder, None, seconds)
            except BaseException:  # Ctrl-C too: what was begun is taken back
                server_process.remove(folder)
                raise
            return _description(deployment, folder)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Promotes another version, which the server takes without a pause; other options start it anew.

        A server that does not run (the machine was started anew) is started. Raises DeploymentError.
        """
        with _as_mlflows():
            _refuse(flavor=flavor, endpoint=endpoint)
            deployment, folder, options = *self._found(name), _texts(config)
            check_options(options, OF_SERVER, {"timeout": OF_COMMAND["timeout"]})
            changed, seconds = replace(deployment, **_of_server(options)), _seconds(options)
            wanted = None
            if model_uri is not None:
                version = Wish(model_uri, {"model": deployment.model}).version(self._registry(), name)
                if version.model != deployment.model:
                    raise Refused(f"{name} serves {deployment.model}, not {version.model}.", cure="Create another.")
                with private_files():
                    promote(self._config, version)
                wanted = version.version
            if changed.port != deployment.port:
                _check_address(changed)  # before the server that runs is ended for it
            if changed != deployment:
                server_process.stop(folder)
            if not server_process.is_running(folder):
                _check_address(changed)
                server_process.start(changed, folder)
            _wait(changed, folder, wanted, seconds)
            return _description(changed, folder)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Ends the server and forgets the deployment; model, configuration and log stay. It need not be there."""
        with _as_mlflows():
            check_options(_texts(config))
            _refuse(endpoint=endpoint)
            server_process.remove(self._folder(name))

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All of the configuration, by name."""
        with _as_mlflows():
            _refuse(endpoint=endpoint)
            folders = sorted((self._config.parent / FOLDER).glob(f"*/{server_process.RECORD}"))
            return [_description(Deployment.read(path.parent), path.parent) for path in folders]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One of them; raises DeploymentError where there is none."""
        with _as_mlflows():
            _refuse(endpoint=endpoint)
            return _description(*self._found(name))

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Asks the running server; the rows and its answers are logged. The key is `$FEEDBACK_LOOP_API_KEY`."""
        with _as_mlflows():
            _refuse(endpoint=endpoint)
            return PredictionsResponse(self._server(deployment_name).predict(inputs))

    def explain(
        self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Why the model is judged as it is: its verdict, and the diagnosis of its open incident.

        Single rows are not explained; `df` is not looked at.
        """
        with _as_mlflows():
            from feedback_loop.mlflow_plugin.explaining import explanation

            del df
            _refuse(endpoint=endpoint)
            deployment, _ = self._found(deployment_name or "")
            return explanation(self._config, deployment)

    @property
    def _config(self) -> Path:
        return _config_of(self.target_uri)

    def _folder(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name, re.ASCII):
            cause = f"{name!r} can't name a deployment: letters, digits, '.', '_' and '-' only."
            raise DeploymentError(cause)
        return self._config.parent / FOLDER / name

    def _found(self, name: str) -> tuple[Deployment, Path]:
        folder = self._folder(name)
        if not (folder / server_process.RECORD).exists():
            names = sorted(path.name for path in folder.parent.glob("*") if (path / server_process.RECORD).exists())
            cause = f"There is no deployment {name!r}. There are: {', '.join(names) or 'none'}."
            raise DeploymentError(cause, RESOURCE_DOES_NOT_EXIST)
        return Deployment.read(folder), folder

    def _server(self, name: str | None) -> Server:
        deployment, folder = self._found(name or "")
        if not server_process.is_running(folder):
            cause = f"The server of {deployment.name} does not run."
            raise Unavailable("server", cause, cure=self._start(deployment.name))
        return Server.of(deployment)

    def _start(self, name: str) -> str:
        return f"Start it: mlflow deployments update -t {self.target_uri} --name {name}"

    def _registry(self) -> Registry:
        return Registry.of(load_settings(self._config))


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Prepares a deployment as `create` does, and serves it in the foreground, until Ctrl-C.

    MLflow does not pass on the target, and so not its folder: the configuration is that of the environment.
    """
    with _as_mlflows():
        _refuse(flavor=flavor)
        deployment = _prepared(_config_of(""), name, Wish(model_uri, _texts(config)))
        _check_address(deployment)
    if code := server_process.run(deployment.command()):
        sys.exit(code)


def target_help() -> str:
    """What `mlflow deployments help -t feedback-loop` shows."""
    groups = {
        "Of the server": OF_SERVER,
        "Of a model that is not in the configuration yet": OF_MODEL,
        "Of the version": OF_VERSION,
        "Of the command": OF_COMMAND,
    }
    options = "\n".join(
        f"\n  {title}:\n" + "\n".join(f"    {name:<14} {says}" for name, says in group.items())
        for title, group in groups.items()
    )
    return _HELP.format(file=FILE_NAME, variable=CONFIG_VARIABLE, folder=FOLDER, options=options)


_HELP = """\
A deployment is a server of one registered model that logs each prediction before it answers. It answers with the
model's champion; update --model-uri promotes another version.

Target URI:
  feedback-loop              ${variable}, else {file} in this folder
  feedback-loop:/srv/churn   /srv/churn/{file}
create writes that file where it is not there (with the registry of $MLFLOW_TRACKING_URI), promotes the version and
starts a server that outlives the command and is started again if it dies. What it prints, and its state, are in
{folder}/NAME beside that file. delete ends it; model, configuration and log stay.

run-local looks there only by ${variable} or in this folder: MLflow does not pass the target's folder on to it.

Model URI: models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME (the champion, else the newest version); others
(runs:/…, models:/m-…, a folder) are registered as a version first, if they are none yet.

Options (-C name=value):
{options}

predict takes a JSON list of rows; MLflow itself reads it, and no CSV. It sends the key in $FEEDBACK_LOOP_API_KEY,
where the server asks for one. explain tells the verdict on the model and why (its diagnosis); single rows are not
explained. Flavors and endpoints are not chosen here.
"""


@contextmanager
def _as_mlflows() -> Iterator[None]:
    """Turns our errors into MLflow's."""
    try:
        yield
    except FeedbackLoopError as error:
        code = RESOURCE_DOES_NOT_EXIST if isinstance(error, NotFound) else INVALID_PARAMETER_VALUE
        raise DeploymentError(str(error), code) from error


def _refuse(*, flavor: str | None = None, endpoint: str | None = None) -> None:
    if flavor not in (None, FLAVOR):
        raise DeploymentError(
            f"The flavor is not chosen here: {flavor!r}. Leave --flavor out.", INVALID_PARAMETER_VALUE
        )
    if endpoint is not None:
        raise DeploymentError("There are no endpoints here: leave --endpoint out.")


def _texts(config: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (config or {}).items()}


def _config_of(target_uri: str) -> Path:
    import os

    place = target_uri.partition(":")[2]
    if not place:
        return Path(os.environ.get(CONFIG_VARIABLE, FILE_NAME)).absolute()
    path = Path(place).expanduser().absolute()
    return path if path.suffix == ".toml" else path / FILE_NAME


def _prepared(config: Path, name: str, wish: Wish) -> Deployment:
    """The wished deployment, once its model is in the configuration and the version is the champion."""
    import mlflow

    chosen = _of_server(wish.options)  # what is wrong with them is said before anything is done
    with private_files():
        model = prepare(config, wish, name, mlflow.get_tracking_uri())
    serving = load_settings(config).serving
    return Deployment(
        **{
            "name": name,
            "model": model,
            "config": str(config),
            "host": serving.host,
            "port": serving.port,
            "workers": serving.workers,
            "created_at": format_moment(system_clock()),
            **chosen,
        }
    )


def _check_address(deployment: Deployment) -> None:
    """Raises Refused where the server can't listen: what answers there now would be taken for it."""
    if not deployment.port:
        raise Refused("serving.port is 0, and a deployment's port must be known.", cure="Give one: -C port=5001.")
    refuse_taken(deployment.host, deployment.port)


def _of_server(options: Mapping[str, str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: options[name] for name in OF_SERVER if name in options}
    for name in {"port", "workers"} & set(chosen):
        if not chosen[name].isdecimal() or not 0 < int(chosen[name]) < 65536:
            raise DeploymentError(f"{name}: {chosen[name]!r} is no number from 1 to 65535.")
        chosen[name] = int(chosen[name])
    return chosen


def _seconds(options: Mapping[str, str]) -> float:
    try:
        return float(options.get("timeout", WAIT_SECONDS))
    except ValueError:
        raise DeploymentError(f"timeout: {options['timeout']!r} is no number.") from None


def _wait(deployment: Deployment, folder: Path, version: str | None, seconds: float) -> None:
    """Until the server answers, with that version if one is given; raises Unavailable with its last words."""
    server, deadline = Server.of(deployment), time.monotonic() + seconds
    while server_process.is_running(folder) and time.monotonic() < deadline:
        answering = server.version()
        if answering is not None and version in (None, answering):
            return
        time.sleep(_LOOK_SECONDS)
    words = server_process.last_words(folder)
    if server_process.is_running(folder):
        cause = (
            f"{deployment.name} does not answer with what is wanted after {seconds:g} s. Its log ends with: {words}"
        )
        raise Unavailable("server", cause, cure="Give it longer: -C timeout=SECONDS.")
    raise Unavailable("server", f"The server of {deployment.name} ended: {words}", cure="Mend that.")


def _description(deployment: Deployment, folder: Path) -> dict[str, Any]:
    server, pid = Server.of(deployment), server_process.process_id(folder)
    version = server.version() if pid is not None else None
    return {
        "name": deployment.name,
        "flavor": FLAVOR,
        "model": deployment.model,
        "version": version,
        "state": "stopped" if pid is None else "starting" if version is None else "running",
        "url": server.url,
        "workers": deployment.workers,
        "pid": pid,
        "config": deployment.config,
        "log": str(folder / server_process.LOG),
        "created_at": deployment.created_at,
    }
