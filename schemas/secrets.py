"""What a secret looks like, as data: token patterns and names. `schemas.redact` applies it.

A token is found by a literal that it cannot do without (`needle`) and then judged by a pattern that starts there.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec


class TokenRule(msgspec.Struct, frozen=True):
    """`pattern` is matched where a needle stands. `word` asks that no word runs into it from the left."""

    label: str
    needles: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    word: bool = True


def _rule(label: str, needles: str, pattern: str, *, word: bool = True) -> TokenRule:
    return TokenRule(label, tuple(needle.encode() for needle in needles.split()), re.compile(pattern.encode()), word)


_PEM_NAME: Final = r"[A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
_PEM_CHAR: Final = r"(?:[A-Za-z0-9+/=:,.\s-]|\\+[nrt]|\\/)"

#: Patterns are linear: no needle can stand inside a run that its own pattern takes (`word`), or lengths are bounded.
#: They take no quote and no backslash (but whole escapes), so that blanking a match leaves valid JSON.
TOKEN_RULES: Final[tuple[TokenRule, ...]] = (
    _rule("anthropic-key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{8,}"),
    _rule(
        "api-key",
        "sk-",
        r"sk-(?=[A-Za-z0-9_-]*[A-Za-z0-9]{24}|[A-Za-z0-9_-]*(?=[a-zA-Z]*[0-9])[A-Za-z0-9]{16})[A-Za-z0-9_-]{16,}",
    ),
    _rule("github-token", "ghp_ gho_ ghs_ ghu_ ghr_", r"gh[opsur]_[A-Za-z0-9_]{16,}"),
    _rule("github-token", "github_pat_", r"github_pat_[A-Za-z0-9_]{20,}"),
    _rule("gitlab-token", "glpat-", r"glpat-[A-Za-z0-9_.-]{16,}"),
    _rule("aws-key", "AKIA ASIA", r"A(?:KI|SI)A[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _rule("google-key", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    _rule("google-token", "ya29.", r"ya29\.[A-Za-z0-9_-]{20,}"),
    _rule("slack-token", "xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs-", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _rule("slack-webhook", "hooks.slack.com/services/", r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}", word=False),
    _rule("stripe-key", "sk_live_ sk_test_ rk_live_ rk_test_", r"[rs]k_(?:live|test)_[A-Za-z0-9]{10,}"),
    _rule("webhook-secret", "whsec_", r"whsec_[A-Za-z0-9+/=]{16,}"),
    _rule("npm-token", "npm_", r"npm_[A-Za-z0-9]{30,}"),
    _rule("pypi-token", "pypi-", r"pypi-[A-Za-z0-9_-]{32,}"),
    _rule("huggingface-token", "hf_", r"hf_[A-Za-z0-9]{20,}"),
    _rule("sendgrid-key", "SG.", r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    _rule("jwt", "eyJ", r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    _rule(
        "bearer-token",
        "earer",
        r"earer(?: |\\t|%20)+(?P<secret>(?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{12,}=*)",
        word=False,
    ),
    _rule(
        "url-password",
        "://",
        r"://[^\s/?#\"'\\@<>:]{0,256}:(?P<secret>[^\s/?#\"'\\@<>]{1,512})@",
        word=False,
    ),
    _rule(
        "private-key",
        "-----BEGIN",
        f"-----BEGIN {_PEM_NAME}(?:{_PEM_CHAR}*?-----END {_PEM_NAME}|{_PEM_CHAR}*)",
        word=False,
    ),
)

#: Literals that begin a look at a name. Longer ones that are no secrets are listed so that they end the look at once.
# fmt: off
_NAMES: Final = (
    "password", "passwd", "passphrase", "pwd", "secret", "token", "authorization", "cookie", "credential", "apikey",
    "api_key", "api-key", "accesskey", "access_key", "access-key", "privatekey", "private_key", "private-key",
    "encryption_key", "signing_key", "auth_key", "session_key",
)
_HUMPS: Final = (
    "passWord", "PassWord", "passPhrase", "apiKey", "ApiKey", "APIKey", "API-Key", "accessKey", "AccessKey",
    "privateKey", "PrivateKey", "encryptionKey", "EncryptionKey", "signingKey", "SigningKey", "authKey", "AuthKey",
    "sessionKey", "SessionKey",
)
#: "pass" alone is in every other word: it counts only where a key may end, at up to three levels of escaping.
_PASS: Final = (
    "pass'", "_pass=", "PASS=",
    *(word + slashes + '"' for word in ("pass", "PASS") for slashes in ("", "\\", "\\" * 3, "\\" * 7)),
)
_DECOYS: Final = (
    "tokens", "Tokens", "TOKENS", "token_count", "token_type", "token_budget", "token_limit", "tokeniz", "Tokeniz",
    "secretar", "Secretar",
)
# fmt: on
NAME_NEEDLES: Final = tuple(
    dict.fromkeys(
        needle.encode()
        for word in (*_NAMES, *_HUMPS, *_PASS)
        for needle in (word, *((word.upper(), word.title(), word.capitalize()) if word in _NAMES else ()))
    )
)
DECOY_NEEDLES: Final = tuple(word.encode() for word in _DECOYS)

#: A name is a secret's when its last words are one of these (label beside it).
SECRET_ENDINGS: Final[dict[tuple[str, ...], str]] = {
    ("password",): "password",
    ("passwords",): "password",
    ("passwd",): "password",
    ("passphrase",): "password",
    ("pwd",): "password",
    ("pass",): "password",
    ("secret",): "secret",
    ("secrets",): "secret",
    ("token",): "token",
    ("authorization",): "authorization",
    ("cookie",): "cookie",
    ("cookies",): "cookie",
    ("credential",): "credential",
    ("credentials",): "credential",
    ("apikey",): "api-key",
    ("apikeys",): "api-key",
    ("api", "key"): "api-key",
    ("api", "keys"): "api-key",
    ("accesskey",): "access-key",
    ("access", "key"): "access-key",
    ("secret", "key"): "secret",
    ("privatekey",): "private-key",
    ("private", "key"): "private-key",
    ("encryption", "key"): "secret",
    ("signing", "key"): "secret",
    ("auth", "key"): "secret",
    ("session", "key"): "secret",
    ("pass", "word"): "password",
    ("pass", "phrase"): "password",
}
NAME_LABELS: Final = frozenset(SECRET_ENDINGS.values())
#: Words after a secret's name that do not change what it holds (`password_confirmation`, `tokenValue`, `SECRET_1`).
TRAILING_WORDS: Final = frozenset((
    "confirmation", "confirm", "again", "value", "plain", "plaintext", "base", "64", "b64", "current", "old", "new",
    "header", "raw", "0", "1", "2", "3",
))  # fmt: skip
#: `next_page_token` and the like page through lists; `stop_token` and the like belong to language models.
HARMLESS_TOKENS: Final = frozenset((
    "page", "next", "continuation", "pagination", "previous", "prev", "start", "stop", "eos", "bos", "pad", "unk",
    "mask", "sep", "cls", "special", "cancellation", "sync", "per", "max", "num",
))  # fmt: skip
#: HTTP headers whose value runs to the end of the line.
SECRET_HEADERS: Final = frozenset((
    "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-auth-token",
    "private-token", "x-access-token", "x-vault-token",
))  # fmt: skip
