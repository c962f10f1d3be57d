"""What an endpoint does, without the web: find the history, route, recommend, log, answer."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.errors import ConfigurationError, DataError, StateError
from segue.migration.deployment import CURRENT_FILE, Arm
from segue.registry.bundle import BUNDLE_FILE
from segue.schema import PathName
from segue.serving.engine import Engine, History, Served
from segue.serving.following import Follower, Serving, baked
from segue.serving.requests import (
    Answer,
    Event,
    EventsAnswer,
    Filters,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
    Who,
)
from segue.serving.store import Store
from segue.workspace import Workspace

logger = logging.getLogger("segue.serving")


@dataclass(frozen=True, slots=True)
class _Routed:
    engine: Engine
    path: PathName
    arm: Arm | None
    k: int | None
    filters: Filters


class Service:
    """Answers typed requests from whatever ``serving`` holds at that moment.

    Args:
        serving: gives the :class:`Serving` of now; a request keeps the one it got. store: histories, events
        and exposures; None: the requests carry their histories and nothing is logged. follower: for
        :meth:`health` and :meth:`close`.
    """

    def __init__(
        self, serving: Callable[[], Serving], store: Store | None = None, follower: Follower | None = None
    ) -> None:
        self._serving = serving
        self._store = store
        self._follower = follower

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Service:
        """As the environment says.

        ``SEGUE_MODE`` ``following`` (default): the deployment of ``SEGUE_DATASET`` in the checkout of
        ``SEGUE_ROOT``, or the document at ``SEGUE_DEPLOYMENT`` (an fsspec URL); histories and exposures in
        ``SEGUE_STORE`` (a SQLAlchemy URL; default: ``state/<dataset>/online.sqlite``). ``baked``: the
        bundle in the folder ``SEGUE_BUNDLE``; a store only where ``SEGUE_STORE`` names one. Raises
        ConfigurationError naming the variable that is missing or wrong, StateError where nothing is
        deployed.
        """
        given = os.environ if environment is None else environment
        mode = given.get("SEGUE_MODE", "following")
        store = Store(given["SEGUE_STORE"]) if given.get("SEGUE_STORE") else None
        if mode == "baked":
            folder = Path(given.get("SEGUE_BUNDLE", "bundle"))
            if not (folder / BUNDLE_FILE).is_file():
                raise ConfigurationError(f"SEGUE_MODE=baked, and {folder} holds no bundle: set SEGUE_BUNDLE")
            serving = baked(folder)
            return cls(lambda: serving, store)
        if mode != "following":
            raise ConfigurationError(f"SEGUE_MODE is {mode!r}: it is 'following' or 'baked'")
        dataset = given.get("SEGUE_DATASET")
        if not dataset:
            raise ConfigurationError(
                "SEGUE_DATASET is not set: name the dataset whose deployment is followed"
            )
        workspace = Workspace(Path(given["SEGUE_ROOT"])) if given.get("SEGUE_ROOT") else Workspace.find()
        return cls.following(
            workspace,
            dataset,
            source=given.get("SEGUE_DEPLOYMENT"),
            store=store,
            poll_seconds=float(given.get("SEGUE_POLL_SECONDS", "0.5")),
        )

    @classmethod
    def following(
        cls,
        workspace: Workspace,
        dataset: str,
        *,
        source: str | None = None,
        store: Store | None = None,
        poll_seconds: float = 0.5,
    ) -> Service:
        """Follow a dataset's deployment. Raises StateError where nothing is deployed."""
        state = workspace.state(dataset)
        store = store or Store.at(state / "online.sqlite")
        follower = Follower(
            source=source or str(state / "deployment" / CURRENT_FILE),
            cache=state / "serving",
            poll_seconds=poll_seconds,
            adopted=lambda serving: refresh_histories(store, serving, workspace.step(dataset, "splits")),
        )
        follower.start()

        def now() -> Serving:
            assert follower.serving is not None  # start() saw to it
            return follower.serving

        return cls(now, store, follower)

    def close(self) -> None:
        if self._follower is not None:
            self._follower.stop()
        if self._store is not None:
            self._store.close()

    def recommend(self, request: RecommendRequest) -> Answer:
        """One list. Raises DataError or StateError for a request that cannot be answered."""
        return self.recommend_batch([request])[0]

    def recommend_batch(self, requests: Sequence[RecommendRequest], *, expose: bool = True) -> list[Answer]:
        """A list each, in order; what is alike is computed together.

        With ``expose`` the exposures are on disk on return; previews never are any.
        """
        started = time.perf_counter()
        serving = self._serving()
        groups: dict[tuple[int, PathName, str, str], list[int]] = {}
        routed = [self._route(serving, request) for request in requests]
        for place, one in enumerate(routed):
            arm = one.arm.name if one.arm is not None else ""
            # Lists that one call of a path can make: one engine, path, arm, length and set of filters.
            key = (id(one.engine), one.path, arm, f"{one.k}{one.filters.model_dump_json()}")
            groups.setdefault(key, []).append(place)
        found: dict[int, Served] = {}
        for places in groups.values():
            one = routed[places[0]]
            lists = one.engine.recommend(
                [self._history(requests[place]) for place in places],
                path=one.path,
                k=one.k,
                filters=one.filters,
            )
            found.update(zip(places, lists, strict=True))
        answers = [
            _answer(serving, routed[place], found[place], requests[place].path is not None, started)
            for place in range(len(requests))
        ]
        if expose and self._store is not None:
            self._store.log_exposures(
                (request.user_id, answer)
                for request, answer in zip(requests, answers, strict=True)
                if not answer.preview
            )
        return answers

    def candidates(self, request: RecommendRequest) -> Answer:
        """Candidates with scores, to be one recall route of another cascade: never an exposure.

        Made by the path that is named, else by the generative one where it is deployed, else by the cascade.
        """
        path = request.path
        if path is None:
            serving = self._serving()
            deployed = any(engine.has(PathName.GENERATIVE) for engine in serving.engines.values())
            path = PathName.GENERATIVE.value if deployed else PathName.CASCADE.value
        return self.recommend(request.model_copy(update={"path": path}))

    def similar(self, request: SimilarRequest) -> SimilarAnswer:
        """Items like one item. Raises DataError for an item that the catalogue lacks."""
        started = time.perf_counter()
        serving = self._serving()
        capable = [engine for engine in serving.engines.values() if engine.manifest.kind == "full"]
        engine = capable[0] if capable else serving.route(None)[0]
        served = engine.similar(request.item_id, k=request.k, filters=request.filters)
        return SimilarAnswer(
            items=list(served.items),
            bundle=engine.bundle_id,
            deployment=serving.revision,
            latency_ms=_milliseconds(started),
        )

    def post(self, events: Sequence[Event]) -> EventsAnswer:
        """Keep what users did. Raises StateError where there is no store."""
        if self._store is None:
            raise StateError("this server has no online store: set SEGUE_STORE to a SQLAlchemy URL")
        known = [engine.items.index_of for engine in self._serving().engines.values()]
        new = self._store.post(events)
        unknown = [event.item_id for event in events if not any(event.item_id in ids for ids in known)]
        return EventsAnswer(
            accepted=new, duplicates=len(events) - new, unknown_items=list(dict.fromkeys(unknown))
        )

    def health(self) -> dict[str, Any]:
        """What serves and what is wrong; ``status``: ``ok``, or ``degraded`` where a person should look."""
        serving = self._serving()
        problem = None if self._follower is None else self._follower.trouble
        failures = {
            f"{bundle[:12]} {path.value}: {reason}": count
            for bundle, engine in serving.engines.items()
            for (path, reason), count in sorted(engine.failures.items())
        }
        opened = sorted(
            f"{bundle[:12]} {path.value}"
            for bundle, engine in serving.engines.items()
            for path in engine.open_breakers
        )
        deployment = serving.deployment
        return {
            "status": "degraded" if problem or opened else "ok",
            "mode": "baked" if self._follower is None else "following",
            "deployment": serving.revision,
            "stage": None if deployment is None else deployment.stage.value,
            "arms": [] if deployment is None else [arm.model_dump(mode="json") for arm in deployment.arms],
            "bundles": {
                name: [path.value for path in engine.paths] for name, engine in serving.engines.items()
            },
            "problem": problem,
            "refused_documents": 0 if self._follower is None else self._follower.refused,
            "open_breakers": opened,
            "failures": failures,
        }

    def _route(self, serving: Serving, request: RecommendRequest) -> _Routed:
        if request.path is not None:
            path = PathName(request.path)
            return _Routed(serving.preview(path), path, None, request.k, request.filters)
        engine, path, arm = serving.route(request.user_id)
        return _Routed(engine, path, arm, request.k, request.filters)

    def _history(self, request: Who) -> History:
        """The request's own history, else the store's, else none."""
        items: Sequence[str] = request.history or ()
        times: Sequence[int] | None = request.timestamps
        if request.history is None and request.user_id is not None and self._store is not None:
            stored = self._store.history(request.user_id)
            if stored is not None:
                items = stored.item_ids
                times = stored.timestamps if all(when > 0 for when in stored.timestamps) else None
        return History(
            item_ids=items,
            timestamps=times,
            user_id=request.user_id,
            now=request.now,
            context=request.context,
        )


def refresh_histories(store: Store, serving: Serving, splits: Path) -> None:
    """Import the histories that the served bundles name, where they lie at hand and are not imported yet.

    Where they are not (another machine, a newer run in between), the store keeps the histories it has.
    """
    from segue.canonical import sha256_of_file

    wanted = {engine.manifest.histories_snapshot for engine in serving.engines.values()}
    if any(store.has_snapshot(snapshot) for snapshot in wanted):
        return
    events = splits / "interactions.parquet"
    if events.is_file() and sha256_of_file(events) in wanted:
        logger.info("histories of %d users imported from %s", store.import_snapshot(splits), splits)
    else:
        logger.warning(
            "the histories that the served bundle names are not in %s: the store keeps its own", splits
        )


def _answer(serving: Serving, routed: _Routed, served: Served, preview: bool, started: float) -> Answer:
    return Answer(
        items=list(served.items),
        path=_wire(served.path),
        bundle=routed.engine.bundle_id,
        deployment=serving.revision,
        arm=None if routed.arm is None else routed.arm.name,
        preview=preview,
        fallback=served.fallback,
        unknown_items=list(served.unknown_items),
        latency_ms=_milliseconds(started),
    )


def _wire(path: PathName) -> Any:
    if path not in (PathName.GENERATIVE, PathName.CASCADE, PathName.POPULARITY):
        raise DataError(f"the path {path.value!r} is not served yet")
    return path.value


def _milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
