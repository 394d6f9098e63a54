"""A hook that tells a web address: the document of a failover as JSON over HTTPS, with a sentence for chats.

    [failover.hooks]
    after = ["/opt/replctl/bin/python", "-m", "replctl.webhook", "--url-file", "/etc/replctl/webhook.url"]

The address is a secret, as those of Slack and its kin hold a token: it comes from a file or from
REPLCTL_WEBHOOK_URL, never from the command line, and no message shows more than its host. A redirect is
refused: it would take the token elsewhere. Exit codes: 0 told, 1 not told, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import ssl
import stat
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

VARIABLE = "REPLCTL_WEBHOOK_URL"
INPUT_MAX_BYTES = 64 * 1024
ANSWER_MAX_BYTES = 4096
LIMIT_S = 8.0  # below the 10 s that a hook has by default
LIMIT_MAX_S = 3600
ATTEMPT_LIMIT_S = 3.0
FIRST_PAUSE_S = 0.5  # then twice as long each time
AGAIN = {408, 425, 429}  # and every 5xx
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class WebhookError(Exception):
    """It was not told; `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class TryAgainError(Exception):
    """It was not told this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to tell. `url` is a secret; `ca_file` None = the system's certificates."""

    url: str
    ca_file: str | None = None

    @property
    def shown(self) -> str:
        """What a message may show of it."""
        return urllib.parse.urlsplit(self.url).hostname or "the address"


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Read the hook's document from standard input, tell it, and return the exit code.

    All of it is done in a thread, which is left behind at the limit: a look-up of a name that hangs can
    neither be interrupted nor be given a time, and a server that sends a byte now and then is never over.
    """
    given = _parser().parse_args(arguments)
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    until_s = time.monotonic() + given.limit
    threading.Thread(target=_run, args=(given, environment, until_s, outcome), daemon=True).start()
    try:
        error = outcome.get(timeout=given.limit)
    except queue.Empty:
        error = WebhookError(f"not told within {given.limit:g} s")
    if error is None:
        return 0
    if not isinstance(error, WebhookError):
        raise error
    sys.stderr.write(f"replctl webhook: {error}\n")
    return error.code


def _run(
    given: argparse.Namespace,
    environment: Mapping[str, str],
    until_s: float,
    outcome: queue.SimpleQueue[Exception | None],
) -> None:
    try:
        target = Target(url=_url(given.url_file, environment), ca_file=given.ca_file)
        document = _document(sys.stdin.buffer)
        body = json.dumps({"text": sentence(document), "event": document}).encode()
        tell(target, body, until_s=until_s)
    except Exception as error:
        outcome.put(error)
    else:
        outcome.put(None)


def _limit(text: str) -> float:
    limit_s = float(text)
    if not 0 < limit_s <= LIMIT_MAX_S:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {LIMIT_MAX_S} s")
    return limit_s


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m replctl.webhook", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--url-file", metavar="FILE", help=f"holds the address; without it, {VARIABLE} does")
    parser.add_argument("--ca-file", metavar="FILE", help="certificates to trust instead of the system's")
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=_limit,
        default=LIMIT_S,
        help="for all of it, by default %(default)s",
    )
    return parser


def _url(file: str | None, environment: Mapping[str, str]) -> str:
    """The address. Raises WebhookError without showing it."""
    if file is None:
        text = environment.get(VARIABLE, "")
        source = VARIABLE
    else:
        source = file
        try:
            path = Path(file)
            if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise WebhookError(f"{file} is open to every user: chmod o= {file}", 2)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise WebhookError(f"{file} cannot be read: {why}", 2) from None
    url = text.strip()
    if not _is_usable(url):
        raise WebhookError(f"{source} holds no usable address that begins with https://", 2)
    return url


def _is_usable(url: str) -> bool:
    """Whether urllib can make something of it that keeps the secret."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")
        is_place = bool(host) and parts.port != 0 and not {"%", "@"} & set(parts.netloc)
    except ValueError:
        return False
    return is_place and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


def _document(stream: IO[bytes]) -> dict[str, Any]:
    content = stream.read(INPUT_MAX_BYTES + 1)
    try:
        document = json.loads(content) if len(content) <= INPUT_MAX_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise WebhookError("no JSON document of a hook on standard input", 2)
    return document


def sentence(document: Mapping[str, Any]) -> str:
    """What happened, for people; with the three letters escaped that Slack gives a meaning."""
    cluster, lost, target = (str(document.get(key) or "?") for key in ("cluster", "lost", "target"))
    how = "automatic " if document.get("automatic") else ""
    run = f"{how}{document.get('action') or 'failover'} {document.get('id') or ''}".rstrip()
    if document.get("hook") == "before":
        text = f"{cluster}: {run} begins: {lost} is lost, {target} is to be the primary"
    elif document.get("outcome") == "done":
        text = f"{cluster}: {target} is the primary now, {lost} is lost ({run})"
    else:
        problem = document.get("problem")
        text = f"{cluster}: {run} ended: {document.get('outcome') or '?'}{f': {problem}' if problem else ''}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def tell(target: Target, body: bytes, *, until_s: float) -> None:
    """POST it, again and again until it is taken or the time (monotonic) is over. Raises WebhookError."""
    opener = _opener(target)
    pause_s = FIRST_PAUSE_S
    while True:
        limit_s = min(ATTEMPT_LIMIT_S, until_s - time.monotonic())
        try:
            _post(opener, target, body, max(0.001, limit_s))
        except TryAgainError as error:
            if until_s - time.monotonic() <= pause_s:
                raise WebhookError(f"{target.shown} was not told: {error}") from None
            time.sleep(pause_s)
            pause_s *= 2
        else:
            return


def _opener(target: Target) -> urllib.request.OpenerDirector:
    try:
        context = ssl.create_default_context(cafile=target.ca_file)
    except OSError as error:
        raise WebhookError(f"{target.ca_file} cannot be used: {error.strerror or error}", 2) from None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context), _NoRedirect()]
    if urllib.parse.urlsplit(target.url).scheme == "http":
        # Without TLS a proxy would read the address, and "this machine" would be the proxy's.
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Lets a redirect be the error that it is here."""

    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002 - the signature is urllib's
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: Message,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        return None


def _post(opener: urllib.request.OpenerDirector, target: Target, body: bytes, limit_s: float) -> None:
    """One attempt. Raises TryAgainError for what may pass, WebhookError for what will not."""
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "replctl"}
    try:
        # _url lets nothing but https pass, and http to this machine.
        request = urllib.request.Request(target.url, data=body, headers=headers, method="POST")  # noqa: S310
        with opener.open(request, timeout=limit_s) as answer:
            answer.read(ANSWER_MAX_BYTES)
    except urllib.error.HTTPError as error:
        error.close()
        said = f"it answered {error.code}"
        if error.code in AGAIN or error.code >= 500:
            raise TryAgainError(said) from None
        said += ", and redirects are not followed" if 300 <= error.code < 400 else ""
        raise WebhookError(f"{target.shown} was not told: {said}") from None
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise WebhookError(f"{target.shown} was not told: {reason.verify_message}") from None
        why = reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
        raise TryAgainError("it took too long" if isinstance(reason, TimeoutError) else why) from None
    except TimeoutError:
        raise TryAgainError("it took too long") from None
    except (OSError, http.client.HTTPException) as error:
        raise TryAgainError(f"the answer broke off ({type(error).__name__})") from None


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the thread may hang in a look-up, or hold standard input, which would hold an exit up
