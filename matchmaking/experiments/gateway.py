"""The gateway in front of two services: what it does is a small frozen record, and nginx's configuration is made of it.

Nothing of a request gets into a log but the client's id and nginx's own number of the request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from matchmaking.base.errors import InputError
from matchmaking.base.files import written_whole
from matchmaking.base.records import Sha256
from matchmaking.experiments.assignment import MOST_SHARE, hundredths_of

Mode = Literal["off", "shadow", "ab"]
DEFINITION, CONFIGURATION, LOGS = "gateway.yaml", "nginx.conf", "log"
# the service's one endpoint; what is asked of another goes to the champion and counts nowhere
ENDPOINT = "/predict_match"
# how the backend names the client
HEADER = "X-Client-Id"
VERSION = 1
# requests under way to the challenger at once; further ones aren't copied, and in A/B the champion answers them
MOST_AT_ONCE = 64
# seconds
CONNECT, CHALLENGER, CHAMPION = 1, 5, 300
# of a service: an image by tag or digest, a release, a commit
SERVICE = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}"
# MiB of a request's body; a larger one is refused (413)
LARGEST = 8


class Arm(BaseModel):
    """One of the two services.

    Attributes:
        address: host and port.
        model: sha256 of the .h5 that it serves.
        folder: where that came from; said, and checked where the service is started.
        service: the service's version, as whoever starts it has it: what it really is nothing here knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]
    model: Sha256
    folder: str = ""
    service: Annotated[str, Field(pattern=f"^({SERVICE})?$")] = ""


class Gateway(BaseModel):
    """What the gateway does; frozen: a change is another record, and a reload.

    Attributes:
        experiment: its name.
        salt: what clients' ids are hashed with; the name, where it is left out.
        mode: "off": every request goes to the champion, nothing is logged. "shadow": the same, and the challenger gets
            a copy. "ab": each client has its arm.
        share: each arm's, in percent of the clients; of no meaning but in "ab".
        champion, challenger: the services.
        service_header: a header of the services' answers that has their version, for the log; where it is given, the
            arms' `service` counts for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    experiment: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$")]
    salt: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    mode: Mode
    share: Annotated[float, Field(ge=0, le=MOST_SHARE)] = 0.0
    champion: Arm
    challenger: Arm
    service_header: Annotated[str, Field(pattern=r"^([A-Za-z][A-Za-z0-9-]{0,63})?$")] = ""

    # YAML reads a bare `off` as false
    @field_validator("mode", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _whole(self) -> Gateway:
        if not self.salt:
            object.__setattr__(self, "salt", self.experiment)
        try:
            hundredths_of(self.share)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    def changed(self, mode: Mode, share: float = 0.0) -> Gateway:
        """The same gateway in another mode, or with another share.

        Raises:
            InputError: there is no such share.
        """
        hundredths_of(share)
        return self.model_copy(update={"mode": mode, "share": share})


def read_gateway(path: Path) -> Gateway:
    """Reads a definition, YAML.

    Raises:
        InputError: there is none, or it isn't one.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        return Gateway.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {f'{where}: ' if where else ''}{first['msg']}") from None


def write_gateway(gateway: Gateway, folder: Path, listen: str, user: str = "") -> Path:
    """Writes the definition and nginx's configuration into a folder, each whole; gives the latter's path.

    Arguments as of `render`. nginx keeps its own files in the folder too, and the exposure log's parts in its `log`.
    """
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    for name, text in (
        (DEFINITION, yaml.safe_dump(gateway.model_dump(mode="json"), sort_keys=False)),
        (CONFIGURATION, render(gateway, folder.absolute(), listen, user)),
    ):
        with written_whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / CONFIGURATION


def render(gateway: Gateway, folder: Path, listen: str, user: str = "") -> str:
    """The configuration of nginx: the same record gives the same text.

    Args:
        gateway: what it is to do.
        folder: an absolute path that nginx may write to.
        listen: address and port.
        user: whom nginx's workers run as where it is started by root; nobody in particular, if left out.

    Raises:
        InputError: the path has a character that would end it in nginx's configuration.
    """
    if any(each in str(folder) for each in "\"'\\;{}$\n") or not folder.is_absolute():
        raise InputError(f"nginx can't be given the folder {folder}; choose an absolute path of plain characters")
    parts = {
        "assignment": _assignment(gateway),
        "service": _service(gateway),
        "formats": "\n".join(_format(gateway, *each) for each in FORMATS),
        "locations": {"off": "", "shadow": SHADOW, "ab": AB if gateway.share else ""}[gateway.mode],
    }
    values = {
        "folder": folder,
        "listen": listen,
        "user": f"user {user};\n" if user else "",
        "champion": gateway.champion.address,
        "challenger": gateway.challenger.address,
        "endpoint": ENDPOINT,
        "log": folder / LOGS,
        "connect": CONNECT,
        "challenger_seconds": CHALLENGER,
        "champion_seconds": CHAMPION,
        "most": MOST_AT_ONCE,
        "largest": LARGEST,
        "buffer": LARGEST + 1,
        "header": HEADER.lower().replace("-", "_"),
    }
    text = TEMPLATE
    for name, value in (*parts.items(), *values.items()):
        text = text.replace(f"@{name}@", str(value))
    return text


# name of the format, whose line it is, its status, who answered the caller
FORMATS = (
    ("champion", "champion", "$status", "champion"),
    ("challenger", "challenger", "$status", "challenger"),
    # the challenger failed, and the champion answered in its place
    ("fallback", "challenger", "$first_status", "champion"),
    ("shadow", "challenger", "$status", "champion"),
)


def _format(gateway: Gateway, name: str, variant: str, status: str, answered: str) -> str:
    """A line of the exposure log; every value is nginx's own, fixed, or passed the pattern of an id."""
    model = getattr(gateway, variant).model
    # in shadow mode a request ends with its copy, and the caller has had the champion's answer before
    seconds = "${champion_took}" if (gateway.mode, variant) == ("shadow", "champion") else "${request_time}"
    fields = (
        f'"version":{VERSION}',
        '"time":"$time"',
        f'"experiment":"{gateway.experiment}"',
        f'"mode":"{gateway.mode}"',
        '"unit":"$unit"',
        f'"variant":"{variant}"',
        f'"model":"{model}"',
        '"request":"$request_id"',
        f'"status":"{status}"',
        # seconds with three decimals, as nginx has them, times a thousand
        f'"latency_ms":{seconds}e3',
        f'"answered_by":"{answered}"',
        *_version(gateway, "champion" if name == "fallback" else variant),
    )
    return f"    log_format {name} escape=json '{{{','.join(fields)}}}';"


def _version(gateway: Gateway, variant: str) -> list[str]:
    version = "$service" if gateway.service_header else getattr(gateway, variant).service
    return [f'"service":"{version}"'] if version else []


def _service(gateway: Gateway) -> str:
    """What an answer says of its service, but for what is no version: free text isn't logged."""
    text = ANSWERED.replace("@pattern@", SERVICE) if gateway.service_header else ""
    return text.replace("@header@", gateway.service_header.lower().replace("-", "_"))


ANSWERED = """
    map $upstream_http_@header@ $service {
        volatile;
        "~^@pattern@$" $upstream_http_@header@;
        default "";
    }
"""


def _assignment(gateway: Gateway) -> str:
    """The clients' arms: "" for who isn't in the experiment. The same as `assignment.assign`."""
    if gateway.mode != "ab" or not gateway.share:
        return ""
    between = 10_000 - 2 * hundredths_of(gateway.share)
    parts = [f"{gateway.share:.2f}% challenger;"]
    if between:
        parts.append(f'{between / 100:.2f}% "";')
    parts.append("* champion;")
    return ASSIGNMENT.replace("@salt@", gateway.salt).replace("@parts@", "\n        ".join(parts))


ASSIGNMENT = """
    split_clients "@salt@:$unit" $arm {
        @parts@
    }
    map $unit $assigned {
        "" "";
        default $arm;
    }
    # what is refused here, before it is anybody's, has no line
    map $upstream_status $asked {
        volatile;
        "" "";
        default $assigned;
    }
"""

SHADOW = """
        location = @endpoint@ {
            # a copy to the challenger, whose answer nobody waits for
            mirror /-shadow;
            # not what is refused here, of which there is no copy
            access_log "@log@/exposures-$part.jsonl" champion if=$upstream_status;
            proxy_pass http://champion;
        }
        location = /-shadow {
            internal;
            log_subrequest on;
            # not where an outsider asks for this address, and is told that there is none
            access_log "@log@/exposures-$part.jsonl" shadow if=$upstream_status;
            # the caller has gone by then
            proxy_ignore_client_abort on;
            proxy_connect_timeout @connect@s;
            proxy_send_timeout @challenger_seconds@s;
            proxy_read_timeout @challenger_seconds@s;
            proxy_pass http://challenger$request_uri;
        }
"""

AB = """
        location = @endpoint@ {
            if ($assigned = challenger) {
                rewrite ^ /-challenger last;
            }
            access_log "@log@/exposures-$part.jsonl" champion if=$asked;
            proxy_pass http://champion;
        }
        location = /-challenger {
            internal;
            # not where an outsider asks for this address, and is told that there is none
            access_log "@log@/exposures-$part.jsonl" challenger if=$upstream_status;
            proxy_connect_timeout @connect@s;
            proxy_send_timeout @challenger_seconds@s;
            proxy_read_timeout @challenger_seconds@s;
            # what the challenger can't answer the champion does
            proxy_intercept_errors on;
            error_page 500 502 503 504 = @fallback;
            proxy_pass http://challenger$request_uri;
        }
        location @fallback {
            access_log "@log@/exposures-$part.jsonl" fallback;
            proxy_pass http://champion$request_uri;
        }
"""

TEMPLATE = """\
# Made from gateway.yaml; what is changed here is lost.
@user@daemon off;
worker_processes 2;
pid "@folder@/nginx.pid";
# starts, ends and reloads; of requests nothing (see below)
error_log stderr notice;
events {
    worker_connections 4096;
}
http {
    # an error's line would have the address that was asked for, and whatever a caller put into it
    error_log stderr emerg;
    access_log off;
    server_tokens off;
    client_body_temp_path "@folder@/body";
    proxy_temp_path "@folder@/proxy";
    fastcgi_temp_path "@folder@/fastcgi";
    uwsgi_temp_path "@folder@/uwsgi";
    scgi_temp_path "@folder@/scgi";
    client_max_body_size @largest@m;
    # in memory, not on the disk; a MiB more, for what the pieces of a chunked body begin with
    client_body_buffer_size @buffer@m;
    # answers neither
    proxy_max_temp_file_size 0;

    # A connection a request, on both sides. One that is kept may be closed by a reload, or by the service, at the very
    # moment when the next request comes by it, which then is lost; and that would wait for the copy of the one before.
    keepalive_timeout 0;
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header X-Request-Id $request_id;
    # for a backend that keeps it with the outcome
    add_header X-Request-Id $request_id always;
    proxy_connect_timeout 5s;
    proxy_read_timeout @champion_seconds@s;
    # nobody is asked twice
    proxy_next_upstream off;

    upstream champion {
        server @champion@ max_fails=0;
    }
    upstream challenger {
        zone challenger 64k;
        server @challenger@ max_fails=0 max_conns=@most@;
    }

    # an id is a key: what isn't, is none
    map $http_@header@ $unit {
        "~^[A-Za-z0-9._:-]{1,64}$" $http_@header@;
        default "";
    }
@assignment@@service@
    map $msec $milliseconds {
        volatile;
        "~[.](?<three>[0-9]{3})$" $three;
    }
    map $time_iso8601 $time {
        volatile;
        "~^(?<second>.{19})(?<zone>.+)$" $second.$milliseconds$zone;
    }
    # a part of the log is a minute: when that is over, it is whole
    map $time_iso8601 $part {
        volatile;
        "~^(?<hour>.{13}):(?<minute>..)" $hour$minute;
    }
    map $upstream_status $first_status {
        volatile;
        "~^(?<first>[0-9]{3})" $first;
        default $status;
    }
    map $upstream_response_time $champion_took {
        volatile;
        "~^(?<took>[0-9]+[.][0-9]+)" $took;
        default $request_time;
    }
@formats@
    open_log_file_cache max=8 inactive=70s;

    server {
        listen @listen@ backlog=1024;
        location / {
            proxy_pass http://champion;
        }
@locations@
    }
}
"""
