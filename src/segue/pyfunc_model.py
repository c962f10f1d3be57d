"""A bundle as an MLflow model, for people who load it there. Serving never does.

Models from code: MLflow keeps this file and runs it; nothing is pickled. The bundle itself is not copied into
MLflow: the model's configuration names it, and it is read, hash by hash, from where bundles are published.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.pyfunc.model import PythonModel

from segue.errors import DataError

if TYPE_CHECKING:
    from mlflow.pyfunc.model import PythonModelContext

    from segue.serving.engine import Engine


class BundleModel(PythonModel):
    """``predict`` takes a table with a column ``history`` (lists of item ids, oldest first).

    Parameters: ``k`` (the list's length) and ``path`` (``generative`` or ``cascade``; by default the
    generative one where the bundle has it). Every row's answer has ``items``, ``scores`` and ``path``.
    """

    engine: Engine | None = None

    def load_context(self, context: PythonModelContext) -> None:
        from segue.registry.bundle import fetch_bundle
        from segue.serving.engine import Engine

        config = context.model_config or {}
        root, bundle = str(config["bundles_root"]), str(config["bundle"])
        local = Path(root) / bundle
        if not local.is_dir():
            local = fetch_bundle(root, bundle, Path(tempfile.gettempdir()) / "segue-bundles")
        self.engine = Engine.load(local)

    def predict(
        self, context: PythonModelContext | None, model_input: Any, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        from segue.schema import PathName
        from segue.serving.engine import History

        if self.engine is None:
            raise DataError(
                f"the bundle is not loaded: call load_context before predict (context: {context})"
            )
        if "history" not in model_input:
            raise DataError(
                "the table needs a column `history`: a list of item ids in every row, oldest first"
            )
        asked = params or {}
        default = PathName.GENERATIVE if self.engine.has(PathName.GENERATIVE) else PathName.CASCADE
        histories = [History(item_ids=[str(item) for item in row]) for row in model_input["history"]]
        served = self.engine.recommend(
            histories, path=PathName(asked.get("path") or default), k=int(asked.get("k") or 10)
        )
        return [
            {
                "items": [item.item_id for item in answer.items],
                "scores": [item.score for item in answer.items],
                "path": answer.path.value,
            }
            for answer in served
        ]


mlflow.models.set_model(BundleModel())
