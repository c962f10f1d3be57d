"""What an endpoint does, without the web: find the history, route, recommend, log, answer."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import ConfigurationError, StateError
from segue.migration.deployment import CURRENT_FILE, Arm
from segue.registry.bundle import BUNDLE_FILE, read_bundle
from segue.schema import PathName
from segue.serving.engine import Engine, Explained, History, Served
from segue.serving.faults import injected_delays
from segue.serving.following import Follower, Serving, baked
from segue.serving.guarded_store import GuardedStore
from segue.serving.requests import (
    Answer,
    Event,
    EventsAnswer,
    ExplainAnswer,
    ExplainedEvent,
    ExplainedTheme,
    ExplainRequest,
    Feedback,
    FeedbackAnswer,
    Filters,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
    Who,
)
from segue.serving.shadowing import Shadower
from segue.serving.spool import Spool
from segue.serving.store import Exposure, Store, new_exposure_id, open_named_store, open_store
from segue.workspace import Workspace

if TYPE_CHECKING:
    from segue.serving.watching import Watch

logger = logging.getLogger("segue.serving")

STORE_BUSY_SECONDS = 2.0  # a request does not wait longer for another process's write


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
        serving: gives the :class:`Serving` of now; a request keeps the one it got. store: histories, events,
        exposures and feedback; None: the requests carry their histories and nothing is logged. follower and watch: for
        :meth:`health` and :meth:`close`.
    """

    def __init__(
        self,
        serving: Callable[[], Serving],
        store: GuardedStore | None = None,
        follower: Follower | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._serving = serving
        self._store = store
        self._follower = follower
        self._shadower = Shadower()
        self._watch = watch

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Service:
        """As the environment says.

        ``SEGUE_MODE`` ``following`` (default): the deployment of ``SEGUE_DATASET`` in the checkout of
        ``SEGUE_ROOT``, or the document at ``SEGUE_DEPLOYMENT`` (an fsspec URL); histories and exposures in
        ``SEGUE_STORE`` (the URL of one store), else in the database of ``SEGUE_DATABASE_URL``, else in
        ``state/<dataset>/online.sqlite``. ``baked``: the bundle in the folder ``SEGUE_BUNDLE``; a store only
        where one of the two names one, and none where ``SEGUE_STORE`` is set and empty. Exposures wait in the
        folder ``SEGUE_SPOOL`` while the store is away (default: ``state/<dataset>/spool``; baked: ``spool``).
        ``SEGUE_WATCH=1``: the guardrail watcher runs in this process too (following only; it needs the ledger).
        Raises ConfigurationError naming the variable that is missing or wrong, StateError where nothing is
        deployed, or where the store is newer than this code.
        """
        given = os.environ if environment is None else environment
        mode = given.get("SEGUE_MODE", "following")
        if mode == "baked":
            folder = Path(given.get("SEGUE_BUNDLE", "bundle"))
            if not (folder / BUNDLE_FILE).is_file():
                raise ConfigurationError(f"SEGUE_MODE=baked, and {folder} holds no bundle: set SEGUE_BUNDLE")
            serving = baked(folder)
            return cls(lambda: serving, _store_of_baked(read_bundle(folder, verify=False).dataset, given))
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
            environment=given,
            poll_seconds=float(given.get("SEGUE_POLL_SECONDS", "0.5")),
        )

    @classmethod
    def following(
        cls,
        workspace: Workspace,
        dataset: str,
        *,
        source: str | None = None,
        environment: Mapping[str, str] | None = None,
        poll_seconds: float = 0.5,
    ) -> Service:
        """Follow a dataset's deployment. Raises StateError where nothing is deployed."""
        state = workspace.state(dataset)
        given = os.environ if environment is None else environment
        delays = injected_delays(given)
        store = GuardedStore(
            lambda: open_store(workspace, dataset, given, busy_seconds=STORE_BUSY_SECONDS),
            Spool(Path(given.get("SEGUE_SPOOL") or state / "spool")),
        )
        splits = workspace.step(dataset, "splits")
        follower = Follower(
            source=source or str(state / "deployment" / CURRENT_FILE),
            cache=state / "serving",
            poll_seconds=poll_seconds,
            load=lambda folder: Engine.load(folder, delays=delays),
            # A store that is away must not hold up a rollback: the histories follow when it is back.
            adopted=lambda serving: store.when_there(
                lambda opened: refresh_histories(opened, serving, splits)
            ),
        )
        try:
            follower.start()
        except BaseException:
            store.close()
            raise

        def now() -> Serving:
            assert follower.serving is not None  # start() saw to it
            return follower.serving

        try:
            watch = _guarded(workspace, dataset, given)
        except BaseException:
            follower.stop()
            store.close()
            raise
        return cls(now, store, follower, watch)

    def close(self) -> None:
        self._shadower.stop()
        if self._watch is not None:
            self._watch.stop()
        if self._follower is not None:
            self._follower.stop()
        if self._store is not None:
            self._store.close()

    def recommend(self, request: RecommendRequest) -> Answer:
        """One list. Raises DataError or StateError for a request that cannot be answered."""
        return self.recommend_batch([request])[0]

    def recommend_batch(self, requests: Sequence[RecommendRequest], *, expose: bool = True) -> list[Answer]:
        """A list each, in order; what is alike is computed together.

        With ``expose`` the exposures are on disk on return, each under its answer's ``exposure_id``; previews
        never are any. An answer without the id could not be logged, and is never counted. An answer's latency is that of
        the call of its path that made it, with the reading of the histories for it: what other arms took is theirs.
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
        # Before the lists are made, because an interleaved one draws its coins from its id.
        logged = self._store is not None and expose
        ids = [
            new_exposure_id(replayed=request.replay) if logged and request.path is None else None
            for request in requests
        ]
        found: dict[int, Served] = {}
        known: dict[int, History] = {}
        warnings: dict[int, str] = {}
        taken: dict[int, float] = {}
        shared = time.perf_counter() - started  # what was done for all of them alike
        for places in groups.values():
            began = time.perf_counter() - shared
            one = routed[places[0]]
            histories = []
            for place in places:
                history, warning = self._history(requests[place])
                histories.append(replace(history, draw=ids[place]))
                known[place] = history
                if warning is not None:
                    warnings[place] = warning
            lists = one.engine.recommend(
                histories,
                path=one.path,
                k=one.k,
                filters=one.filters,
                blend=serving.blend,
                spared={name for place in places for name in serving.spared(requests[place].context)},
            )
            found.update(zip(places, lists, strict=True))
            taken.update(dict.fromkeys(places, _milliseconds(began)))
        answers = [
            _answer(serving, routed[place], found[place], requests[place], warnings.get(place), taken[place])
            for place in range(len(requests))
        ]
        if not expose:
            return answers
        for place, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            if not answer.preview:
                shown = [item.item_id for item in answer.items]
                self._shadower.offer(serving, known[place], shown, k=request.k, filters=request.filters)
        return self._exposed(requests, answers, ids)

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

    def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item: never an exposure. Raises DataError for an item that the catalogue lacks."""
        started = time.perf_counter()
        serving = self._serving()
        # Routed like the list that showed the item, so that the same path explains it.
        routed = self._route(serving, RecommendRequest(**request.model_dump(exclude={"item_id"})))
        history, warning = self._history(request)
        found = routed.engine.explain(
            history, request.item_id, path=routed.path, spared=serving.spared(request.context)
        )
        return _explained(serving, routed, found, warning, started)

    def post(self, events: Sequence[Event]) -> EventsAnswer:
        """Keep what users did. Raises StateError where there is no store, UnavailableError while it is away."""
        store = self._required_store()
        known = [engine.items.index_of for engine in self._serving().engines.values()]
        posted = store.post(events)
        unknown = [event.item_id for event in events if not any(event.item_id in ids for ids in known)]
        return EventsAnswer(
            accepted=posted.new,
            duplicates=posted.duplicates,
            unknown_items=list(dict.fromkeys(unknown)),
            erased=posted.erased,
        )

    def feedback(self, feedback: Sequence[Feedback]) -> FeedbackAnswer:
        """Keep how users responded. Raises StateError where there is no store, UnavailableError while it is away."""
        posted = self._required_store().post_feedback(feedback)
        return FeedbackAnswer(accepted=posted.new, duplicates=posted.duplicates, erased=posted.erased)

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
        store = self._store
        away = None if store is None else store.problem
        lost = 0 if store is None else store.uncounted
        put_off = None if store is None else store.put_off
        unreadable = {
            f"{bundle[:12]} {path.value}": reason
            for bundle, engine in serving.engines.items()
            for path, reason in engine.unreadable.items()
        }
        watch = self._watch
        blind = None if watch is None else watch.problem
        injected = {
            f"{bundle[:12]} {path.value}": milliseconds
            for bundle, engine in serving.engines.items()
            for path, milliseconds in engine.delays.items()
        }
        wrong = problem or opened or away or lost or put_off or unreadable or blind or injected
        return {
            "status": "degraded" if wrong else "ok",
            "mode": "baked" if self._follower is None else "following",
            "deployment": serving.revision,
            "stage": None if deployment is None else deployment.stage.value,
            "arms": [] if deployment is None else [arm.model_dump(mode="json") for arm in deployment.arms],
            "bundles": {
                name: [path.value for path in engine.available] for name, engine in serving.engines.items()
            },
            "problem": problem,
            "refused_documents": 0 if self._follower is None else self._follower.refused,
            "open_breakers": opened,
            "unreadable": unreadable,
            "injected_delays_ms": injected,
            "failures": failures,
            "shadow": self._shadower.told(),
            "watch": None if watch is None else {"problem": blind, "looked_at": watch.looked_at},
            "store": None
            if store is None
            else {
                "problem": away,
                "spooled_exposures": store.spooled,
                "uncounted_exposures": lost,
                "put_off": put_off,
            },
        }

    def _route(self, serving: Serving, request: RecommendRequest) -> _Routed:
        if request.path is not None:
            path = PathName(request.path)
            return _Routed(serving.preview(path), path, None, request.k, request.filters)
        engine, path, arm = serving.route(request.user_id, request.context)
        return _Routed(engine, path, arm, request.k, request.filters)

    def _history(self, request: Who) -> tuple[History, str | None]:
        """The request's own history, else the store's, else none; and a warning where the store could not be asked."""
        items: Sequence[str] = request.history or ()
        times: Sequence[int] | None = request.timestamps
        warning = None
        if request.history is None and request.user_id is not None and self._store is not None:
            stored, warning = self._store.history(request.user_id)
            if stored is not None:
                items = stored.item_ids
                times = stored.timestamps if all(when > 0 for when in stored.timestamps) else None
        history = History(
            item_ids=items,
            timestamps=times,
            user_id=request.user_id,
            now=request.now,
            context=request.context,
        )
        return history, warning

    def _exposed(
        self, requests: Sequence[RecommendRequest], answers: Sequence[Answer], ids: Sequence[str | None]
    ) -> list[Answer]:
        """The answers, those that are no previews with the id of ``ids`` under which they are on disk."""
        if self._store is None:
            return list(answers)
        named = [
            answer if answer.preview else answer.model_copy(update={"exposure_id": own})
            for answer, own in zip(answers, ids, strict=True)
        ]
        now = time.time()
        shown = [
            Exposure.of(request.user_id, answer, now)
            for request, answer in zip(requests, named, strict=True)
            if not answer.preview
        ]
        if self._store.expose(shown):
            return named
        lost = "this list could not be logged and is not counted"
        return [
            answer if answer.preview else answer.model_copy(update={"warnings": [*answer.warnings, lost]})
            for answer in answers
        ]

    def _required_store(self) -> GuardedStore:
        if self._store is None:
            raise StateError(
                "this server has no online store: set SEGUE_STORE or SEGUE_DATABASE_URL to its URL"
            )
        return self._store


def _guarded(workspace: Workspace, dataset: str, environment: Mapping[str, str]) -> Watch | None:
    """The watcher that ``SEGUE_WATCH`` asks for, started. Raises ConfigurationError where it says neither 0 nor 1."""
    asked = environment.get("SEGUE_WATCH", "0")
    if asked not in ("0", "1", ""):
        raise ConfigurationError(
            f"SEGUE_WATCH is {asked!r}: 1 runs the guardrail watcher in this process, 0 does not"
        )
    if asked != "1":
        return None
    from segue.serving.watching import Watch  # it reads parameters and ledger, which a plain server does not

    watch = Watch(workspace, dataset, environment=environment)
    watch.start()
    return watch


def _store_of_baked(dataset: str, environment: Mapping[str, str]) -> GuardedStore | None:
    named = environment.get("SEGUE_STORE", environment.get("SEGUE_DATABASE_URL"))
    if not named:
        return None

    def opened() -> Store:
        store = open_named_store(dataset, environment, busy_seconds=STORE_BUSY_SECONDS)
        assert store is not None  # one of the two variables names it
        return store

    return GuardedStore(opened, Spool(Path(environment.get("SEGUE_SPOOL") or "spool")))


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


def _answer(
    serving: Serving,
    routed: _Routed,
    served: Served,
    request: RecommendRequest,
    warning: str | None,
    latency_ms: float,
) -> Answer:
    return Answer(
        items=list(served.items),
        path=served.path.value,
        bundle=routed.engine.bundle_id,
        deployment=serving.revision,
        arm=None if routed.arm is None else routed.arm.name,
        preview=request.path is not None,
        fallback=served.fallback,
        unknown_items=list(served.unknown_items),
        latency_ms=latency_ms,
        warnings=[*([] if warning is None else [warning]), *served.warnings],
    )


def _explained(
    serving: Serving, routed: _Routed, found: Explained, warning: str | None, started: float
) -> ExplainAnswer:
    explanation, items = found.explanation, routed.engine.items
    titles = routed.engine.titles
    theme = explanation.theme
    return ExplainAnswer(
        item_id=items.ids[explanation.item],
        title=titles[explanation.item],
        sentence=found.sentence,
        basis=explanation.basis,
        score=explanation.score,
        events=[
            ExplainedEvent(
                item_id=items.ids[item],
                title=titles[item],
                place=influence.place,
                importance=influence.importance,
            )
            for influence in explanation.influences
            for item in [int(found.history[influence.place])]
        ],
        context_importance=explanation.context_importance,
        theme=None
        if theme is None
        else ExplainedTheme(
            prefix=list(theme.prefix),
            words=list(theme.words),
            shared_with=list(dict.fromkeys(items.ids[found.history[place]] for place in theme.places)),
        ),
        path=found.path.value,
        bundle=routed.engine.bundle_id,
        deployment=serving.revision,
        arm=None if routed.arm is None else routed.arm.name,
        fallback=found.fallback,
        unknown_items=list(found.unknown_items),
        latency_ms=_milliseconds(started),
        warnings=[*([] if warning is None else [warning]), *found.warnings],
    )


def _milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
