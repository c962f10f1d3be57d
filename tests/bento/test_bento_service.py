"""The Bento: what it carries, the image it asks for, and a served answer."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bento.edge import message_of
from bento.image import image, pins
from segue.items import Items
from segue.schema import PathName
from segue.serving.check import ask, sample_cases, server, summarize
from segue.serving.packaging import BuiltBento, bento_name, build_bento, dockerfile, requirements
from segue.serving.store import Store

TRAINING = ("mlflow", "dagster", "dvc", "great_expectations", "optuna", "sentence_transformers", "pandas")


@pytest.fixture(scope="module")
def built(full: Path, repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltBento:
    return build_bento(full, "tiny", repository_root, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def repository_root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "online.sqlite"


@pytest.fixture(scope="module")
def url(built: BuiltBento, store_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = built.folder.parents[2]
    with server(
        built.tag,
        environment={
            "BENTOML_HOME": str(home),
            "SEGUE_STORE": f"sqlite:///{store_file}",
            "SEGUE_SPOOL": str(store_file.with_name("spool")),
            "SEGUE_MODE": "baked",
        },
        log=tmp_path_factory.mktemp("log") / "server.log",
        start_seconds=60,
        folder=home,
    ) as address:
        yield address


def test_the_service_imports_no_training_tool(repository_root: Path) -> None:
    code = (
        "import sys, json, bento.service, segue.serving.service, segue.cascade.cascade, "
        "segue.generative.path, segue.tokenizers.item_map; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository_root, capture_output=True, text=True, check=True
    )
    assert not set(TRAINING) & set(json.loads(done.stdout.splitlines()[-1]))


def test_the_gpu_image(built: BuiltBento) -> None:
    text, packages = dockerfile(built).read_text(), requirements(built).read_text().split()
    assert "FROM nvidia/cuda:" in text
    assert "cudnn-runtime" in text
    assert "torch.version.cuda" in text  # an image without a CUDA build of torch does not come to be
    assert "BENTOML_HOST=0.0.0.0" in text
    torch = next(line for line in packages if line.startswith("torch=="))
    assert "+cpu" not in torch
    assert all("==" in line for line in packages)
    for tool in (*TRAINING, "great-expectations", "dagster-webserver", "sentence-transformers"):
        assert not any(line.lower().startswith(tool) for line in packages)


def test_the_cpu_image() -> None:
    made = image("cpu")
    assert "cuda" not in made.base_image
    assert made.lock_python_packages is False


def test_an_unknown_image_is_refused() -> None:
    with pytest.raises(ValueError, match="SEGUE_IMAGE"):
        image("tpu")  # type: ignore[arg-type]


def test_constraints_decide_the_versions(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# pins\nPolars==9.9.9  # newest\nprometheus_client==1.2.3\n")
    found = pins(file)
    assert (found["polars"], found["prometheus-client"]) == ("9.9.9", "1.2.3")
    assert found["numpy"]  # from this environment


def test_the_bento_holds_bundle_and_code(built: BuiltBento, full_id: str) -> None:
    assert built.tag == f"segue_tiny:{full_id[:12]}"
    source = built.folder / "src"
    assert json.loads((source / "bundle" / "bundle.json").read_text())["bundle_id"] == full_id
    assert (source / "segue" / "serving" / "engine.py").is_file()
    assert (source / "bento" / "service.py").is_file()


def test_an_existing_tag_is_reused_and_another_image_replaces_it(
    built: BuiltBento, full: Path, repository_root: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(built.folder.parents[2], tmp_path / "home"))
    again = build_bento(full, "tiny", repository_root, home)
    assert (again.tag, again.reused) == (built.tag, True)
    other = build_bento(full, "tiny", repository_root, home, image="cpu")
    assert (other.tag, other.reused) == (built.tag, False)
    assert "nvidia/cuda" not in dockerfile(other).read_text()


@pytest.mark.parametrize(
    ("dataset", "name"), [("ml-100k", "segue_ml-100k"), ("Größe 1", "segue_gr-e-1"), ("!!", "segue_dataset")]
)
def test_names_that_bentoml_accepts(dataset: str, name: str) -> None:
    assert bento_name(dataset) == name


def test_a_recommendation_by_raw_ids(url: str, full_id: str) -> None:
    reply = httpx.post(f"{url}/recommend", json={"history": ["i001", "i002"], "k": 5})
    answer = reply.json()
    assert reply.status_code == 200
    assert len(answer["items"]) == 5
    assert all(item["title"] and item["source"] for item in answer["items"])
    assert (answer["path"], answer["bundle"], answer["preview"]) == ("generative", full_id, False)
    assert answer["latency_ms"] > 0


def test_every_path_over_the_wire(url: str) -> None:
    for path in PathName:
        answer = httpx.post(f"{url}/recommend", json={"history": ["i001"], "k": 5, "path": path.value}).json()
        assert (answer["path"], answer["fallback"], len(answer["items"])) == (path.value, None, 5)
    refused = httpx.post(f"{url}/recommend", json={"history": [], "path": "mixed"})
    assert refused.status_code == 400
    assert "recall_route" in refused.json()["error"]


def test_the_other_endpoints(url: str) -> None:
    batch = httpx.post(f"{url}/recommend_batch", json={"requests": [{"history": []}, {"history": ["i001"]}]})
    assert [len(answer["items"]) for answer in batch.json()] == [10, 10]
    assert httpx.post(f"{url}/candidates", json={"history": [], "k": 20}).json()["preview"]
    assert len(httpx.post(f"{url}/similar_items", json={"item_id": "i001", "k": 3}).json()["items"]) == 3
    why = httpx.post(f"{url}/explain", json={"history": ["i001", "i002"], "item_id": "i003"}).json()
    assert {event["item_id"] for event in why["events"]} == {"i001", "i002"}
    assert why["sentence"].endswith(".")
    assert httpx.post(f"{url}/explain", json={"history": [], "item_id": "nobody"}).status_code == 400
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
    assert httpx.get(f"{url}/readyz").status_code == 200
    metrics = httpx.get(f"{url}/metrics").text
    assert 'segue_requests_total{arm="",path="generative",preview="false"}' in metrics
    assert "segue_latency_seconds_bucket" in metrics


def test_feedback_over_the_wire(url: str, store_file: Path) -> None:
    answer = httpx.post(f"{url}/recommend", json={"user_id": "wire", "history": [], "k": 3}).json()
    click = {"feedback_id": "w1", "kind": "click", "item_id": answer["items"][0]["item_id"]}
    body = {"feedback": [click | {"exposure_id": answer["exposure_id"]}]}
    assert httpx.post(f"{url}/feedback", json=body).json() == {"accepted": 1, "duplicates": 0, "erased": 0}
    assert httpx.post(f"{url}/feedback", json=body).json()["duplicates"] == 1
    event = {"event_id": "w2", "user_id": "wire", "item_id": "i001"}
    assert httpx.post(f"{url}/events", json={"events": [event]}).json()["accepted"] == 1
    refused = httpx.post(f"{url}/feedback", json={"feedback": [click]})
    assert refused.status_code == 400
    assert "give the exposure_id" in refused.json()["error"]
    store = Store.at(store_file)
    sums = store.user_sums()
    own = sums.table.filter(user_hash=store.user_hash("wire")).to_dicts()
    assert [(row["impressions"], row["clicks"]) for row in own] == [(3, 1)]
    store.close()


def test_a_store_that_is_locked_delays_no_list_and_loses_no_exposure(url: str, store_file: Path) -> None:
    lock = sqlite3.connect(store_file, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    click = {"feedback_id": "l1", "kind": "click", "item_id": "i001", "user_id": "locked"}
    refused = httpx.post(f"{url}/feedback", json={"feedback": [click]}, timeout=20)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json() == {"error": "the online store is away right now: send it again"}
    assert "another process has held it for long" in httpx.get(f"{url}/health").json()["store"]["problem"]
    answer = httpx.post(f"{url}/recommend", json={"user_id": "locked", "history": [], "k": 3}).json()
    assert answer["exposure_id"]
    assert httpx.get(f"{url}/health").json()["store"]["spooled_exposures"] == 1
    lock.rollback()
    lock.close()
    deadline = time.monotonic() + 20
    while httpx.get(f"{url}/health").json()["status"] != "ok" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert httpx.post(f"{url}/feedback", json={"feedback": [click]}).status_code == 200
    store = Store.at(store_file)
    assert answer["exposure_id"] in {row["exposure_id"] for row in store.exposures()}
    store.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "give a user_id"),
        ({"history": [], "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"history": [], "path": "magic"}, "path: Input should be"),
        ({"history": [], "filters": {"categories": ["none"]}}, "no item has the category 'none'"),
    ],
)
def test_a_bad_request_gets_one_message(url: str, body: dict[str, object], message: str) -> None:
    reply = httpx.post(f"{url}/recommend", json=body)
    assert reply.status_code == 400
    assert list(reply.json()) == ["error"]
    assert message in reply.json()["error"]


def test_a_body_that_is_no_json_gets_one_message(url: str) -> None:
    reply = httpx.post(f"{url}/recommend", content=b"{", headers={"content-type": "application/json"})
    assert (reply.status_code, list(reply.json())) == (400, ["error"])


def test_more_than_the_catalogue_gives_what_there_is(url: str) -> None:
    reply = httpx.post(f"{url}/recommend", json={"history": ["i001"], "k": 10**6, "path": "popularity"})
    assert len(reply.json()["items"]) == 39


def test_the_check_finds_nothing_wrong(url: str, full: Path, world: Path) -> None:
    catalogue = Items.load(full).index_of
    for path in (PathName.GENERATIVE, PathName.CASCADE):
        cases = sample_cases(world / "splits", 12, 1)
        row = summarize(ask(url, path, cases, k=5, concurrency=3, catalogue=catalogue))
        assert [row[name] for name in ("errors", "invalid_items", "seen_items", "fallbacks")] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'[{"error": "why"}]', "why"),
        (
            b'{"error": "1 validation error", "detail": [{"loc": ["a", 0], "msg": "Value error, bad"}]}',
            "a.0: bad",
        ),
        (b"plain", "plain"),
    ],
)
def test_bentoml_s_wordings_become_one(body: bytes, message: str) -> None:
    assert message_of(body) == message
