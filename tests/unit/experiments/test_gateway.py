"""The gateway's definition, and nginx's configuration made of it. What nginx does by it: tests/services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from matchmaking.base.errors import InputError
from matchmaking.experiments.gateway import Gateway, read_gateway, render, write_gateway

PLAIN: dict[str, Any] = {
    "experiment": "ranking-1",
    "mode": "ab",
    "share": 10,
    "champion": {"address": "legalaid-ml:8000", "model": "a" * 64},
    "challenger": {"address": "127.0.0.1:8002", "model": "b" * 64},
}


def test_a_definition_is_read_as_it_was_written(tmp_path: Path) -> None:
    gateway = Gateway.model_validate(PLAIN)
    assert gateway.salt == "ranking-1"
    write_gateway(gateway, tmp_path, "127.0.0.1:8000")
    assert read_gateway(tmp_path / "gateway.yaml") == gateway
    assert (tmp_path / "nginx.conf").read_text() == render(gateway, tmp_path, "127.0.0.1:8000")
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_off_is_a_word(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(PLAIN).replace("mode: ab", "mode: off"))
    assert read_gateway(path).mode == "off"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"share": 51}, "share"),
        ({"share": 0.001}, "can't be had"),
        ({"experiment": 'a";'}, "experiment"),
        ({"salt": "a b"}, "salt"),
        ({"mode": "canary"}, "mode"),
        ({"other": 1}, "other"),
        ({"champion": {"address": "a:1; }", "model": "a" * 64}}, "champion.address"),
        ({"champion": {"address": "a:1", "model": "none"}}, "champion.model"),
        ({"champion": {"address": "a:1", "model": "a" * 64, "service": 'x";'}}, "champion.service"),
        ({"service_header": "X-Version;"}, "service_header"),
    ],
)
def test_what_is_no_definition_is_refused_in_a_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, **change}))
    with pytest.raises(InputError, match=said) as error:
        read_gateway(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("text", ["[", "just text", ""])
def test_what_is_no_yaml_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        read_gateway(path)


def test_there_is_no_place_left_open_in_the_configuration(tmp_path: Path) -> None:
    for mode, share in (("off", 0), ("shadow", 0), ("ab", 0), ("ab", 0.01), ("ab", 10), ("ab", 50)):
        gateway = Gateway.model_validate({**PLAIN, "mode": mode, "share": share})
        text = render(gateway, tmp_path, "127.0.0.1:8000")
        assert "@" not in text.replace("@fallback", "")
        assert '"service"' not in text and "$service" not in text
        assert text.count("{") == text.count("}")
        assert ("split_clients" in text) == (mode == "ab" and share > 0)


@pytest.mark.parametrize("folder", ["relative", '/tmp/a"b', "/tmp/$date", "/tmp/{x}"])
def test_a_folder_that_nginx_would_read_otherwise_is_refused(folder: str) -> None:
    with pytest.raises(InputError, match="can't be given the folder"):
        render(Gateway.model_validate(PLAIN), Path(folder), "127.0.0.1:8000")


def test_a_share_that_can_not_be_had_changes_nothing() -> None:
    gateway = Gateway.model_validate(PLAIN)
    assert gateway.changed("ab", 50).share == 50
    with pytest.raises(InputError):
        gateway.changed("ab", 60)
