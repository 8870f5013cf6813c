"""What is blanked, and what is left alone."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from schemas.redact import Redactor

REDACT = Redactor()
B36 = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nq+Ab/12==\n-----END RSA PRIVATE KEY-----"


def redact(value: Any) -> Any:
    """The value after redaction of its JSON; the text must stay JSON and a second pass must change nothing."""
    once = REDACT(json.dumps(value).encode())
    assert REDACT(once) is once or REDACT(once) == once
    return json.loads(once)


@pytest.mark.parametrize(
    ("secret", "label"),
    [
        (f"sk-{B36}", "api-key"),
        (f"sk-proj-{B36}", "api-key"),
        ("sk-" + "abcdefghijklmnopqrstuvwxyz", "api-key"),
        (f"sk-ant-api03-{B36}", "anthropic-key"),
        *((f"gh{kind}_{B36}", "github-token") for kind in "posur"),
        (f"github_pat_11ABCDEFG_{B36}", "github-token"),
        (f"glpat-{B36[:20]}", "gitlab-token"),
        ("AKIAIOSFODNN7EXAMPLE", "aws-key"),
        ("ASIAIOSFODNN7EXAMPLE", "aws-key"),
        ("AIza" + B36[:35], "google-key"),
        ("xoxb-123456789012-abcdefABCDEF", "slack-token"),
        (f"npm_{B36}", "npm-token"),
        (f"pypi-{B36}{B36}", "pypi-token"),
        (f"hf_{B36}", "huggingface-token"),
        ("sk_live_" + B36[:24], "stripe-key"),
        ("rk_live_" + B36[:24], "stripe-key"),
        (JWT, "jwt"),
        (PEM, "private-key"),
        (PEM.replace("RSA ", ""), "private-key"),
    ],
)
@pytest.mark.parametrize(
    "around",
    ["{}", "a {} b", "line\n{}\nline", "x=({})", "tab\t{}", "\x1b{}", "'{}'", '"{}"', "é{}", "{}\\"],
)
def test_tokens_are_known_by_their_looks(secret: str, label: str, around: str) -> None:
    """Wherever it stands in a string, the token and nothing else is replaced by a visible mark."""
    assert redact({"a": [around.format(secret)]}) == {"a": [around.format(f"[redacted:{label}]")]}


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "DB_PASSWORD",
        "userPassword",
        "passwd",
        "passphrase",
        "pass",
        "secret",
        "client_secret",
        "clientSecret",
        "AWS_SECRET_ACCESS_KEY",
        "api_key",
        "apikey",
        "apiKey",
        "API-Key",
        "x-api-key",
        "authorization",
        "Authorization",
        "token",
        "access_token",
        "accessToken",
        "refresh_token",
        "GITHUB_TOKEN",
        "private_key",
        "cookie",
        "set-cookie",
        "Set-Cookie",
        "credential",
        "password_confirmation",
    ],
)
def test_names_tell_secrets(name: str) -> None:
    """A key at any depth, plain or in JSON inside a string inside a string."""
    value = 'hun"ter\\2'
    plain = redact({"deep": [{name: value, "other": value}]})["deep"][0]
    assert plain[name].startswith("[redacted:")
    assert plain["other"] == value
    inner = json.dumps({name: value, "other": value})
    once = json.loads(redact({"body": inner})["body"])
    assert once[name].startswith("[redacted:")
    assert once["other"] == value
    twice = json.loads(json.loads(redact({"body": json.dumps({"body": inner}, indent=1)})["body"])["body"])
    assert twice == once


@pytest.mark.parametrize(
    "value",
    [
        {"max_tokens": 4096, "token_count": 3, "tokens": ["a"], "input_tokens": "12"},
        {"secretary": "bob", "tokenizer": "x", "passenger": "y", "compass": "z", "cookiecutter": "c", "author": "d"},
        {"token": 5, "secret": None, "api_key": True, "authorization": {}, "cookie": []},
        {"password": "", "token": "${TOKEN}", "secret": "$SECRET", "api_key": "<your key>", "pwd": "********"},
        {"Authorization": "Bearer ${TOKEN}", "token": "#{token}", "a": 'f"Authorization: Bearer {token}"'},
        {"next_page_token": "abc", "nextPageToken": "abc", "eos_token": "</s>"},
        {"pwd": "/home/x", "a": "PWD=/home/x\nOLDPWD=~"},
        {"a": "token = get_token(); def f(password: str, token=token): password == x; secret.do()"},
        {"a": "<task-notification> disk-usage sk-circle-fade-dot-animation risk-averse-long-sentence-12"},
        {"a": "https://example.com:8080/path?q=1 and user@example.com, git@github.com:x/y.git"},
        {"a": "the password is wrong; a secret garden; Bearer of bad news; cookie: chocolate"},
        {"bypassPermissions": "passed", "permission_mode": "bypassPermissions"},
        {"a": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"},
        {"a": "C:\\u0073ers\\new", "b": "\\/\\/"},
        {"a": "akia AKIA AKIAxyz ghp_ hf_model npm_config_cache=x pypi-server sk-"},
    ],
    ids=range(15),
)
def test_what_only_looks_like_a_secret_is_left_alone(value: Any) -> None:
    """Counts, prose, code, paths, placeholders and references stay byte for byte."""
    text = json.dumps(value).encode()
    assert REDACT(text) is text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("export DB_PASSWORD=hunter2 && x", "export DB_PASSWORD=[redacted:password] && x"),
        ("A=1\nAPI_KEY='abcdef'\nB=2", "A=1\nAPI_KEY='[redacted:api-key]'\nB=2"),
        ('TOKEN="abcdef" x', 'TOKEN="[redacted:token]" x'),
        ("curl -H 'Authorization: Bearer abc123' x", "curl -H 'Authorization: Bearer [redacted:authorization]' x"),
        ('curl -H "X-Api-Key: abc" x', 'curl -H "X-Api-Key: [redacted:api-key]" x'),
        ("Cookie: a=b; c=d\nHost: x", "Cookie: [redacted:cookie]\nHost: x"),
        ("sent Bearer abcDEF1234567890== ok", "sent Bearer [redacted:bearer-token] ok"),
        ("postgres://bob:s3cr3t@db/x", "postgres://bob:[redacted:url-password]@db/x"),
        ("redis://:s3cr3t@db", "redis://:[redacted:url-password]@db"),
        ("GET /x?access_token=abc&b=1", "GET /x?access_token=[redacted:token]&b=1"),
        ("mysql --password hunter2 -u x", "mysql --password [redacted:password] -u x"),
        ("x --api-key=abc -v", "x --api-key=[redacted:api-key] -v"),
        ('const apiKey = "abcd1234";', 'const apiKey = "[redacted:api-key]";'),
        ("db:\n  password: hunter22\n  user: x", "db:\n  password: [redacted:password]\n  user: x"),
        ("{'password': 'hunter2', 'b': 1}", "{'password': '[redacted:password]', 'b': 1}"),
        (f"GITHUB_TOKEN=ghp_{B36}", "GITHUB_TOKEN=[redacted:github-token]"),
        (PEM + "\nrest", "[redacted:private-key]\nrest"),
        (PEM[:60] + " cut", "[redacted:private-key]"),
        (
            '{"client_email":"x","private_key":"' + PEM.replace("\n", "\\n") + '"}',
            '{"client_email":"x","private_key":"[redacted:private-key]"}',
        ),
    ],
)
def test_secrets_in_text(text: str, expected: str) -> None:
    """Environment files, command lines, headers, URLs, code, YAML and reprs inside strings."""
    assert redact({"t": text}) == {"t": expected}
    assert json.loads(redact({"t": json.dumps({"t": text})})["t"]) == {"t": expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PEM + f"ghp_{B36}", "[redacted:private-key][redacted:github-token]"),
        (f"AIza{B36[:35]}" * 3 + f"hf_{B36}", "[redacted:google-key]" * 3 + "[redacted:huggingface-token]"),
        (PEM + "password: hunter22", "[redacted:private-key]password: [redacted:password]"),
        (PEM + "next_token=abcdef1", "[redacted:private-key]next_token=abcdef1"),
    ],
)
def test_a_secret_may_stand_right_behind_another(text: str, expected: str) -> None:
    """What was blanked is no part of the word behind it; one pass finds them all."""
    assert redact({"t": text}) == {"t": expected}


@pytest.mark.parametrize(
    "value",
    [
        ["PASS=", -1, "", "x"],
        {"TOKEN=": [1, 2, 3], "API_KEY=": "plain", "x --password": "plain"},
        json.dumps(["PASS=", -1, "", "x"], separators=(",", ":")),
        json.dumps({"t": json.dumps({"TOKEN=": "abcdef"}, separators=(",", ":"))}),
    ],
    ids=["list", "object", "json in a string", "json in json in a string"],
)
def test_the_quote_that_ends_a_text_begins_no_value(value: Any) -> None:
    """An assignment without a value at the end of a string says nothing about what comes after the string."""
    text = json.dumps(value, separators=(",", ":")).encode()
    assert REDACT(text) is text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (rb'{"a":"\u0073k-ant-api03-abcdefgh1234"}', {"a": "[redacted:anthropic-key]"}),
        (rb'{"a":"AKIAIOSFODNN7EXAMPL\u0045","b":"\u0041"}', {"a": "[redacted:aws-key]", "b": "A"}),
        (rb'{"pass\u0077ord":"hunter2"}', {"password": "[redacted:password]"}),
        (rb'{"a":"https:\/\/bob:pw@host\/x"}', {"a": "https://bob:[redacted:url-password]@host/x"}),
        (rb'{"password":"\u0022\u005c"}', {"password": "[redacted:password]"}),
        (rb'{"a":"x\u000aghp_a1B2c3D4e5F6g7H8i9J0"}', {"a": "x\n[redacted:github-token]"}),
    ],
)
def test_escapes_hide_nothing(raw: bytes, expected: Any) -> None:
    """ASCII written as escapes is seen through, and what is no secret keeps its escapes."""
    assert json.loads(REDACT(raw)) == expected
    if b"\\u0041" in raw:
        assert b"\\u0041" in REDACT(raw)


def test_numbers_and_lists_under_a_secret_name() -> None:
    """A numeric password is a password; strings of a list are blanked one by one."""
    assert redact({"password": -12.5e3, "x": 1}) == {"password": "[redacted:password]", "x": 1}
    assert redact({"cookies": ["a", "b"], "x": ["a"]}) == {"cookies": ["[redacted:cookie]"] * 2, "x": ["a"]}


@pytest.mark.parametrize(
    "piece",
    [
        "-eyJ",
        "token ",
        'password:\\"',
        "authorization: ",
        "authorization: [redacted:x ",
        "cookie: ",
        "-----BEGIN A PRIVATE KEY-----",
        "://a:",
        "://" + ":" * 700,
        "-sk-",
        'password=\\\\\\"password=\\"',
        "\\u0041",
        "--token ",
        "\\\\",
    ],
)
def test_no_text_makes_redaction_slow(piece: str) -> None:
    """Time grows with the length, not with its square: 900 KiB of the worst stays far below a second a megabyte."""
    text = ('{"x":"' + piece * (900_000 // len(piece)) + '"}').encode()
    started = time.perf_counter()
    REDACT(text)
    assert time.perf_counter() - started < 3
