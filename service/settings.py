"""Settings, read once from the environment (prefix ATTENTION_)."""

import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIB = 2**20
DAY_S = 86_400
# What docker-compose.yml reads under the same prefix.
_OF_COMPOSE = ("publish", "gpu_publish", "memory", "cpus")
LEAST_KEY_CHARACTERS = 16
_KEY = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""What may stand after `Bearer ` (RFC 6750)."""
_ORIGIN = re.compile(r"https?://[a-z0-9.\-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")


class Settings(BaseSettings):
    """Every default keeps a container with 2 cores and 4 GiB alive."""

    model_config = SettingsConfigDict(
        env_prefix="ATTENTION_",
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # one of the inputs is the key
        populate_by_name=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    pass_: Literal["native", "eager"] | None = Field(
        None,
        validation_alias="ATTENTION_PASS",
        description="Which pass computes on the CPU; native where it is not built ends the start. "
        "Absent = native where it is built, else eager, which takes about three times as long.",
    )
    threads: int | None = Field(None, ge=1, description="Compute threads; absent = usable cores.")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="What is logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="One JSON object a line, or text; auto = text on a terminal."
    )
    telemetry: bool = Field(
        False,
        description="Spans, metrics and logs for an OpenTelemetry collector, which the variables "
        "OTEL_… name; needs the extra otel.",
    )

    api_key: SecretStr | None = Field(
        None,
        description="Callers send it as `Authorization: Bearer <key>`; at least 16 characters; "
        "several, separated by commas, are accepted while one replaces another. Absent = no key "
        "is asked for. Health never needs it.",
    )
    metrics_open: bool = Field(True, description="Whether /metrics is served without the key.")
    docs_open: bool = Field(
        True, description="Whether the docs pages and /problems are served without the key."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call the service, separated by commas, or `*`; "
        "never with cookies. Absent = none.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks, separated by commas, of the proxies that are believed "
        "in `X-Forwarded-For` and `X-Forwarded-Proto`. Absent = none.",
    )

    max_body_bytes: int = Field(128 * MIB, ge=1, description="Bytes of a binary body.")
    max_decoded_bytes: int = Field(
        128 * MIB, ge=1, description="Bytes of a body that came compressed, after decompression."
    )
    # The parser holds the interpreter lock. Measured: 4.1 MiB of float32 in lists take 39 ms, and
    # a million one-digit numbers in lists of four 45 ms: so both bytes and values are bounded.
    max_json_bytes: int = Field(
        4_718_592, ge=1, description="Bytes of a JSON body; larger tensors go as safetensors."
    )
    max_json_values: int = Field(
        2**20, ge=1, description="Values in a JSON body: numbers, strings, lists, objects."
    )
    max_json_depth: int = Field(32, ge=1, description="Nesting of a JSON body.")
    max_elements: int = Field(2**26, ge=1, description="Elements of one tensor.")
    max_peak_bytes: int = Field(1024 * MIB, ge=1, description="Estimated memory of an analysis.")
    max_answer_bytes: int = Field(256 * MIB, ge=1, description="Estimated bytes of an answer.")
    max_flops: int = Field(
        2 * 10**12, ge=1, description="Estimated floating-point operations of an analysis."
    )
    max_groups: int = Field(256, ge=1, description="Groups in one safetensors file.")
    max_sweep_points: int = Field(256, ge=1, description="Points in the grid of one sweep.")
    max_in_flight_bytes: int = Field(
        2048 * MIB, ge=1, description="Estimated memory of all requests being served together."
    )
    max_queue: int = Field(
        64, ge=1, description="Requests read, waiting, computed or written at a time."
    )
    largest_batch: int = Field(32, ge=1, description="Requests computed together.")
    deadline_s: float = Field(
        120.0, gt=0, le=DAY_S, description="Longest time an analysis may take."
    )
    body_timeout_s: float = Field(
        30.0, gt=0, le=DAY_S, description="Longest time a body may take to arrive."
    )
    hang_after_s: float = Field(
        10.0,
        gt=0,
        le=DAY_S,
        description="Longest time a computation that nobody waits for may still take; after it the "
        "process ends, to be started anew.",
    )

    max_header_bytes: int = Field(
        32 * 1024,
        ge=1024,
        description="Bytes of a request's line and headers, and of the trailers of its body.",
    )
    max_headers: int = Field(100, ge=16, description="Headers of a request, trailers among them.")
    # Measured: a connection takes 6 KiB, 12 after an answer, 38 with 32 KiB of an unfinished head.
    max_connections: int = Field(
        1000, ge=1, description="Connections; the longest idle one makes room for a new one."
    )
    head_timeout_s: float = Field(
        10.0,
        gt=0,
        le=DAY_S,
        description="Longest time from a connection to its first request's whole head.",
    )
    send_timeout_s: float = Field(
        30.0,
        gt=0,
        le=DAY_S,
        description="Longest time in which a caller reads less than 64 KiB of its answer; for the "
        "whole it has this time and a second for each 256 KiB.",
    )
    # Longer than the 60 s of common proxies, so that the proxy is the one that closes.
    keep_alive_s: int = Field(65, ge=1, le=DAY_S, description="Longest time between two requests.")
    drain_delay_s: float = Field(
        5.0, ge=0, le=DAY_S, description="How long work is still accepted after the signal to stop."
    )
    grace_s: float = Field(
        30.0, gt=0, le=DAY_S, description="How long what is in flight may then take to finish."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, given: object) -> object:
        return given.lower() if isinstance(given, str) else given

    @field_validator("api_key")
    @classmethod
    def _strong(cls, given: SecretStr | None) -> SecretStr | None:
        if given is None:
            return None
        if not given.get_secret_value().strip():
            raise ValueError(
                f"the key is empty; it has at least {LEAST_KEY_CHARACTERS} characters, and without "
                "the variable none is asked for"
            )
        for key in _pieces(given.get_secret_value()):
            if len(key) < LEAST_KEY_CHARACTERS or not _KEY.fullmatch(key):
                raise ValueError(
                    f"a key has at least {LEAST_KEY_CHARACTERS} characters of A-Z a-z 0-9 - . _ ~ "
                    "+ / and may end in ="
                )
        return given

    @field_validator("cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        return tuple(_pieces(given)) if given.strip() else ()

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if given != ("*",) and not all(map(_ORIGIN.fullmatch, given)):
            raise ValueError(
                "expected origins such as https://example.org:8443, without a slash behind them, "
                "or * alone"
            )
        return given

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        # The server would take what is neither for the name of a socket, and trust nobody.
        for proxy in given:
            try:
                ip_network(proxy)
            except ValueError as error:
                raise ValueError(
                    f"expected addresses and networks such as 192.0.2.1, 10.0.0.0/8: {error}"
                ) from None
        return given

    @property
    def accepted_keys(self) -> tuple[bytes, ...]:
        """Every key, none where none is set."""
        given = self.api_key
        return tuple(key.encode() for key in _pieces(given.get_secret_value())) if given else ()

    @classmethod
    def unknown(cls, environment: Iterable[str]) -> list[str]:
        """The variables with this prefix that are no settings, as a mistyped one is."""
        prefix = str(cls.model_config.get("env_prefix"))
        named = [name for name in environment if name.upper().startswith(prefix)]
        known = {*(field.strip("_") for field in cls.model_fields), *_OF_COMPOSE}
        return sorted(name for name in named if name[len(prefix) :].lower() not in known)

    @staticmethod
    def name_of(field: str) -> str:
        """The environment variable that sets `field`."""
        return f"ATTENTION_{field.strip('_').upper()}"


def _pieces(text: str) -> list[str]:
    """What stands between commas; an empty text is one empty piece."""
    return [piece.strip() for piece in text.split(",")]
