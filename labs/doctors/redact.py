"""Takes out of a report what should not leave the house: secrets, people, hosts, prompts, paths.

What a reader needs stays: file names, package paths below site-packages, sizes, ranks, versions.
Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

T = TypeVar("T")

# Order matters: secrets first, so that a later rule never leaves half of one.
SECRETS = (
    # Keys that carry their own prefix: Hugging Face, OpenAI-like, GitHub, GitLab, Slack, AWS, Google.
    re.compile(
        r"\b(?:hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abpr]-|AKIA|ASIA|AIza|wandb_v1_)[A-Za-z0-9_\-]{8,}"
    ),
    re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?"),
    re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
    ),
)
NAMED_SECRET = re.compile(
    r"""(?ix)
    ( ["']? \b [\w\-]* (?: api[_\-]?key | token | secret | passw(?:or)?d | passwd | authorization
      | access[_\-]?key | private[_\-]?key | credential s? ) ["']? \s* [:=] \s* (?: bearer \s+ )? )
    ( "[^"\n]*" | '[^'\n]*' | [^\s,;)}\]"']+ )"""
)
# Counting words that only look like secrets: max_tokens=512, pad_token_id: 0, tokens: 4096.
NOT_SECRET = re.compile(
    r"(?i)(?:tokens|token_ids?|tokenizer\w*|(?:pad|eos|bos|unk|image|special)_token)\W*$"
)
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/\-]{12,}=*")
# Long hexadecimal words: W&B and cloud keys. Memory addresses (0x…) and digests under 32 stay.
HEX = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{32,}(?![0-9A-Za-z])")

URL = re.compile(r"\b([a-z][a-z0-9+.\-]{1,12})://([^\s\"'<>)\]]+)", re.I)
# Addresses of public documentation that libraries print; anything else may be an inside address.
PUBLIC = re.compile(
    r"(?i)^(?:[\w\-]+\.)*(?:pytorch\.org|nvidia\.com|huggingface\.co|github\.com|readthedocs\.io"
    r"|python\.org|kernel\.org|ray\.io|vllm\.ai|deepspeed\.ai|arxiv\.org)$"
)
EMAIL = re.compile(r"\b[\w.+\-]+@(?:[\w\-]+\.)+[A-Za-z]{2,}\b")
IPV4 = re.compile(r"(?<![\w.])(?!127\.0\.0\.1)(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.])")
IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}(?![\w:])", re.I)
# Names of machines where tools are known to print them.
HOSTS = (
    re.compile(r"(?i)(\bhost(?:name)?s?\s*[:=]\s*)[\w.\-]+"),
    re.compile(r"(?i)(\bMASTER_ADDR\s*[:=]\s*)[\w.\-]+"),
    re.compile(r"(\bslurmstepd-)[\w.\-]+(?=:)"),
    re.compile(r"(\*\*\* (?:JOB|STEP) \S+ ON )[\w.\-]+"),
    re.compile(r"^()[\w.\-]+(?=:\d+:\d+ \[\d*\] NCCL )", re.M),
    re.compile(r"(?i)(\bon node )[\w.\-]+"),
    re.compile(r"(\[?rank\d+@)[\w.\-]+"),
    re.compile(r"(srun: error: )[\w.\-]+(?=: task)"),
)
INTERNAL_NAME = re.compile(
    r"(?i)\b[\w\-]+(?:\.[\w\-]+)*\.(?:internal|local|lan|corp|intra(?:net)?|svc|cluster)\b"
)
# `user@machine:~/folder$` of a pasted terminal.
PROMPT_OF_SHELL = re.compile(r"(?m)^(\([\w.\-]+\) )?[\w.\-]+@[\w.\-]+(?=[:\s])")

# Text of the data set: the value of a key that holds it.
DATA = re.compile(
    r"""(?ix) ( ["']? \b (?: prompts? | question | answer | response | completion | conversations?
      | messages | content | caption | instruction | input_text | query | text ) ["']? \s* [:=] \s* )
    ( "(?:[^"\\\n]|\\.)*"? | '(?:[^'\\\n]|\\.)*'? | \[ \s* [{"'] [^\n]* )"""
)

POSIX = re.compile(r"(?<![\w./:~…\-])(?:~|\.{1,2})?(?:/[^\s/\"'<>|:,;()\[\]{}=]+){2,}/?")
WINDOWS = re.compile(r"(?<![\w])(?:[A-Za-z]:|\\\\[\w.\-]+)(?:[\\/][^\\/\s\"'<>|:,;()]+)+[\\/]?")
# Path of the system, the same on every machine, often the point of the message.
SYSTEM = re.compile(r"^/(?:dev|proc|sys)/(?!.*home)")
PACKAGE = re.compile(r".*[\\/](?:site-packages|dist-packages)[\\/](.+)$")
LIBRARY = re.compile(r".*[\\/]lib(?:64)?[\\/]python3\.\d+[\\/](.+)$")


def shorter_path(match: re.Match) -> str:
    """Keep what names the code (package path, file name), drop what names the person."""
    path = match.group(0)
    if SYSTEM.match(path):
        return path
    for known in (PACKAGE, LIBRARY):
        inside = known.match(path)
        if inside:
            return "…/" + inside.group(1).replace("\\", "/")
    parts = [part for part in re.split(r"[\\/]", path) if part]
    last = parts[-1]
    # A folder's last name may itself be the person's (`/home/anna`); a file's name is kept.
    return f"…/{last}" if "." in last.strip(".") else "<path>"


def _named_secret(match: re.Match) -> str:
    return match.group(0) if NOT_SECRET.search(match.group(1)) else f"{match.group(1)}<secret>"


def _url(match: re.Match) -> str:
    host = re.split(r"[/?#]", match.group(2), maxsplit=1)[0]
    return match.group(0) if PUBLIC.match(host) else f"{match.group(1)}://<host>"


def redact_text(text: str) -> str:
    """`text` without secrets, addresses, host and user names, prompts and private paths."""
    for pattern in SECRETS:
        text = pattern.sub("<secret>", text)
    text = BEARER.sub(r"\1 <secret>", text)
    text = NAMED_SECRET.sub(_named_secret, text)
    text = HEX.sub("<hex>", text)
    text = DATA.sub(r"\1<text>", text)
    kept: list[str] = []

    def keep(match: re.Match) -> str:
        # Addresses are set aside, so that the rules for paths and hosts leave them whole.
        kept.append(_url(match))
        return f"\x00{len(kept) - 1}\x00"

    text = URL.sub(keep, text)
    text = EMAIL.sub("<email>", text)
    for pattern in HOSTS:
        text = pattern.sub(r"\1<host>", text)
    text = PROMPT_OF_SHELL.sub(r"<user>@<host>", text)
    text = INTERNAL_NAME.sub("<host>", text)
    text = IPV6.sub("<address>", IPV4.sub("<address>", text))
    text = WINDOWS.sub(shorter_path, text)
    text = POSIX.sub(shorter_path, text)
    return re.sub(r"\x00(\d+)\x00", lambda match: kept[int(match.group(1))], text)


def redact(value: T) -> T:
    """The same value (string, list, dict, Report, Finding, …) with every string redacted."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {_key(key): redact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(redact(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes: dict[str, Any] = {
            item.name: redact(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    return value


def _key(key: Any) -> Any:
    return redact_text(key) if isinstance(key, str) else key
