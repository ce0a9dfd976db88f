"""The guide to secrets says what is true: its workflow sends the values, and nothing of them stays."""

import json
import re
from base64 import b64encode
from pathlib import Path

import pytest

import statechart
from common.commands.secrets import set_secret
from common.credentials import SECRET_BYTES, Secret
from common.lifecycle import InstanceStatus
from common.sealing import SealingKeys
from task_runner.handlers.http import send_http
from task_runner.resolve import Resolver, Secrets
from tests.support.engine import Engine
from tests.support.http_server import fixed, ok, serving

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/guides/secrets.md").read_text()
(PARCEL,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
VALUES = {"CARRIER_KEY": "sk_live_0123456789", "CARRIER_ACCOUNT": "4711-0815"}
KEYS = SealingKeys.of(Secret(b"k" * SECRET_BYTES))


def test_the_workflow_sends_its_secrets_and_keeps_none(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_HTTP_ALLOW", "127.0.0.0/8")
    engine.handler("HTTP", send_http)
    engine.resolver = Resolver({"secret": Secrets(lambda: KEYS)})
    with engine.database.transaction() as tx:
        for name, value in VALUES.items():
            set_secret(tx, engine.tenant_id, name, value, keys=KEYS, actor="test")
    echoed = json.dumps(
        {"key": VALUES["CARRIER_KEY"], "basic": b64encode(b"acme:4711-0815").decode()}
    ).encode()

    with serving(fixed(ok(echoed, "Content-Type: application/json"))) as server:
        instance_id = engine.start(PARCEL, input={"carrier": server.url("").rstrip("/"), "address": "here"})
        engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert b"X-Api-Key: sk_live_0123456789\r\n" in server.requests[0]
    assert server.requests[0].endswith(b'{"account":"acme:4711-0815","to":"here"}')
    parcel = engine.context(instance_id)["parcel"]
    assert parcel["key"] == "[secret CARRIER_KEY]"
    assert "[secret CARRIER_ACCOUNT]" in parcel["basic"]


def test_what_the_guide_says_is_refused_is_refused() -> None:
    misplaced = json.loads(json.dumps(PARCEL))
    misplaced["states"]["ordering"]["invoke"]["onDone"]["actions"][0]["value"] = "${secret.CARRIER_KEY}"

    (problem,) = [problem for problem in statechart.check(misplaced) if problem.severity == "error"]

    assert problem.code == "secret.misplaced"
    assert f"`{problem.code}`" in PAGE


def test_every_code_of_the_guide_is_the_sources_own() -> None:
    sources = [ROOT / "task_runner/resolve.py", ROOT / "common/sealing.py", ROOT / "statechart/findings.py"]
    codes = set(re.findall(r'"(secret\.[a-z_]+)"', "".join(source.read_text() for source in sources)))

    assert set(re.findall(r"`(secret\.[a-z_]+)`", PAGE)) <= codes
