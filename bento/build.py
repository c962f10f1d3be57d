"""Build the Bento of a prepared build context: ``python -m bento.build <request.json>``.

A process of its own, because BentoML imports the service from the build context under the name that this
checkout's service has too. The request names context, name, version and labels; the answer is written
beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

SERVICE = "bento.service:Recommender"


def main(request_file: Path) -> None:
    request = json.loads(request_file.read_text(encoding="utf-8"))
    tag = f"{request['name']}:{request['version']}"
    try:
        found = bentoml.get(tag)
        if dict(found.info.labels) == request["labels"]:
            reused = True
        else:  # the same bundle under other code or another image: the tag must name what is asked for
            bentoml.delete(tag)
            raise NotFound(tag)
    except NotFound:
        reused = False
        found = bentoml.build(
            SERVICE,
            name=request["name"],
            version=request["version"],
            labels=request["labels"],
            build_ctx=request["context"],
            include=["*"],
        )
    answer = {"tag": str(found.tag), "path": str(found.path), "reused": reused}
    request_file.with_name("answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
