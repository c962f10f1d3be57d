"""Following the deployment: read the document, hold its bundles, swap one reference.

A request keeps the deployment it began with. A document or a bundle that cannot be used changes nothing:
what served goes on serving, and :attr:`Follower.problem` says why. The last good document and its bundles
lie in a cache folder, so that a worker that starts while the document is broken serves too.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
from pydantic import ValidationError

from segue.artifacts import write_text
from segue.blending.weights import checked_weights
from segue.errors import ArtifactError, StateError
from segue.migration.deployment import (
    CURRENT_FILE,
    GENERATIVE_PATHS,
    Arm,
    CurrentDeployment,
    Deployment,
)
from segue.registry.bundle import fetch_bundle
from segue.schema import PathName
from segue.serving.engine import Engine
from segue.serving.routing import arm_for

logger = logging.getLogger("segue.serving")

MISSED_POLLS = 10  # looks at the document that a follower may miss before it is said to have stopped looking
LEAST_SILENCE_SECONDS = 30.0  # a bundle's loading takes a while, and nothing is looked at meanwhile


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers requests: a deployment and its bundles' engines; without one, a single engine."""

    engines: dict[str, Engine]
    deployment: Deployment | None = None
    default: str = ""  # the bundle that answers where there is no deployment
    path: PathName = PathName.CASCADE  # the path that answers where there is no deployment

    def route(
        self, user_id: str | None, context: Mapping[str, str] | None = None
    ) -> tuple[Engine, PathName, Arm | None]:
        """Who answers a request of this user in this context."""
        if self.deployment is None:
            return self.engines[self.default], self.path, None
        arm = arm_for(self.deployment, user_id, context)
        return self.engines[arm.bundle], arm.path, arm

    def spared(self, context: Mapping[str, str] | None) -> frozenset[str]:
        """Names in a context that are no mistake, though the bundle that answers may declare none such: another bundle of
        the deployment reads them (its shadow's too), or none holds a model that could."""
        if all(engine.manifest.kind == "incumbent" for engine in self.engines.values()):
            return frozenset(context or ())
        return frozenset(name for engine in self.engines.values() for name in engine.declared)

    def preview(self, path: PathName) -> Engine:
        """Whose ``path`` a preview asks: the champion's bundle, else an arm's, else the shadow's.

        For a path that reads the generative model the shadow's bundle comes first, because it is the one that is to be
        looked at. Raises StateError where none has that path.
        """
        names = [self.default] if self.deployment is None else [self.deployment.champion.bundle]
        if self.deployment is not None:
            names += [name for name in self.deployment.bundles if name not in names]
            shadow = self.deployment.shadow
            if path in GENERATIVE_PATHS and shadow is not None:
                names.insert(0, shadow.bundle)
        for name in names:
            if self.engines[name].has(path):
                return self.engines[name]
        raise StateError(f"no bundle that is deployed has the path {path.value!r}")

    @property
    def blend(self) -> dict[str, float] | None:
        """The weights of blended lists; None: one half each."""
        return None if self.deployment is None else self.deployment.blend

    @property
    def revision(self) -> int | None:
        return None if self.deployment is None else self.deployment.revision


def baked(bundle: Path) -> Serving:
    """One bundle answers everything: by its generative path where it has one."""
    engine = Engine.load(bundle)
    path = PathName.GENERATIVE if engine.has(PathName.GENERATIVE) else PathName.CASCADE
    return Serving({engine.bundle_id: engine}, default=engine.bundle_id, path=path)


@dataclass
class Follower:
    """Keeps a :class:`Serving` in step with a deployment document.

    Args:
        source: where ``current.json`` lies (a path or an fsspec URL).
        cache: a folder of this server's own, for bundles and the last good document.
        poll_seconds: how often the document is looked at.
        load: how a bundle's folder becomes an engine.
        adopted: called with every newly adopted deployment, before it serves.
    """

    source: str
    cache: Path
    poll_seconds: float = 0.5
    load: Callable[[Path], Engine] = Engine.load
    adopted: Callable[[Serving], None] | None = None
    serving: Serving | None = None
    problem: str | None = None  # why the newest document is not followed; None: it is
    refused: int = 0  # documents that were not followed
    checked_at: float = 0.0  # when the document was last read, seconds since 1970
    looked_at: float = (
        0.0  # when it was last looked for, whether or not it could be read: seconds of a monotonic clock
    )
    _text: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Adopt the document, or the last good one from the cache, and go on polling in a thread.

        Raises StateError where neither can be used.
        """
        self.looked_at = time.monotonic()
        self.poll()
        if self.serving is None:
            self._restore()
        self._thread = threading.Thread(target=self._run, name="segue-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        if self.serving is not None:
            for engine in self.serving.engines.values():
                engine.close()

    @property
    def trouble(self) -> str | None:
        """Why what serves may not be what is deployed: :attr:`problem`, or that nobody looks any more."""
        if self._thread is not None and not self._thread.is_alive():
            return f"{self.source} is not followed any more: its thread has ended"
        silence = time.monotonic() - self.looked_at
        if self._thread is not None and silence > max(
            MISSED_POLLS * self.poll_seconds, LEAST_SILENCE_SECONDS
        ):
            return f"{self.source} has not been looked at for {silence:.0f} s: a read or a bundle's loading hangs"
        return self.problem

    def poll(self) -> bool:
        """Look at the document once; whether a new one was adopted. Nothing is raised: see ``problem``."""
        self.looked_at = time.monotonic()
        try:
            text = self._read()
            self.checked_at = time.time()
            if text == self._text:
                self.problem = None
                return False
            self._adopt(text)
        except Exception as error:  # a thread that died would never hear of the next rollback
            message = f"{self.source} is not followed: {error}"
            if message != self.problem:
                self.refused += 1
                logger.exception("%s", message)
            self.problem = message
            return False
        self.problem = None
        return True

    def _run(self) -> None:
        while not self._stop.wait(self.poll_seconds):
            self.poll()

    def _read(self) -> str:
        filesystem, path = fsspec.core.url_to_fs(self.source)
        content: bytes = filesystem.cat_file(path)
        return content.decode("utf-8")

    def _adopt(self, text: str, *, keep: bool = True) -> None:
        current = _parse(text, self.source)
        deployment = current.deployment
        held = self.serving
        if held is not None and held.deployment is not None:
            if deployment.revision < held.deployment.revision:
                raise StateError(
                    f"revision {deployment.revision} is older than {held.deployment.revision}, which serves"
                )
            if deployment.revision == held.deployment.revision and deployment != held.deployment:
                raise StateError(f"revision {deployment.revision} is not what it was: revisions never change")
        engines: dict[str, Engine] = {}
        for name in deployment.bundles:
            if held is not None and name in held.engines:
                engines[name] = held.engines[name]
            else:
                engines[name] = self.load(fetch_bundle(current.bundles_root, name, self.cache / "bundles"))
        checked_weights(deployment.blend)
        for arm in deployment.arms:
            if not engines[arm.bundle].has(arm.path):
                raise StateError(
                    f"bundle {arm.bundle[:12]} of arm {arm.name!r} has no path {arm.path.value!r}"
                )
        serving = Serving(engines, deployment)
        if self.adopted is not None:
            self.adopted(serving)
        self.serving = serving  # the one reference that requests read
        self._text = text
        logger.info("following revision %d, stage %s", deployment.revision, deployment.stage)
        if keep:
            write_text(self.cache / CURRENT_FILE, text)
        self._tidy(deployment)

    def _restore(self) -> None:
        path = self.cache / CURRENT_FILE
        if not path.is_file():
            raise StateError(f"{self.problem}; and there is no last good one in {self.cache}")
        problem = self.problem
        self._adopt(path.read_text(encoding="utf-8"), keep=False)
        self._text = ""  # the source is looked at afresh at the next poll
        self.problem = problem

    def _tidy(self, deployment: Deployment) -> None:
        """Keep on disk the bundles of this document and of nothing older than the one before it."""
        kept = self.cache / "kept.json"
        before: list[str] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
        write_text(kept, json.dumps(sorted(deployment.bundles)))
        for folder in (self.cache / "bundles").iterdir():
            if (
                folder.is_dir()
                and not folder.name.startswith(".")
                and folder.name not in {*deployment.bundles, *before}
            ):
                shutil.rmtree(folder, ignore_errors=True)


def _parse(text: str, source: str) -> CurrentDeployment:
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{source} is no JSON: {error}") from error
    try:
        return CurrentDeployment.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ArtifactError(f"{source}: {where}: {first['msg']}") from error
