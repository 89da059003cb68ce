"""Secrets by detect-secrets, numbers of persons by python-stdnum, addresses by their form."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from inferstack_runtime.checks.base import CheckUnavailable, Finding, windows

_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_CARD = re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?!\w)")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_PHONE = re.compile(r"(?<![\w+])\+\d[\d ()./-]{7,18}\d(?!\w)")
_GROUP_END = re.compile(r"(?=[ -])|$")


class SecretsCheck:
    """Finds keys and tokens, card numbers, IBANs, US social security numbers, mail addresses, international phone numbers."""

    name = "secrets"

    def __init__(self) -> None:
        """Raises CheckUnavailable when the libraries are not installed."""
        try:
            from detect_secrets.plugins import aws, github_token, gitlab_token, jwt, openai, private_key, slack, stripe
            from stdnum import iban, luhn
            from stdnum.us import ssn
        except ImportError:
            raise CheckUnavailable("checks.secrets needs the extra `checks`: pip install 'inferstack-runtime[checks]'") from None
        self._detectors: list[Any] = [
            aws.AWSKeyDetector(),
            github_token.GitHubTokenDetector(),
            gitlab_token.GitLabTokenDetector(),
            jwt.JwtTokenDetector(),
            openai.OpenAIDetector(),
            private_key.PrivateKeyDetector(),
            slack.SlackDetector(),
            stripe.StripeDetector(),
        ]
        self._iban: Any = iban
        self._luhn: Any = luhn
        self._ssn: Any = ssn

    def look(self, text: str) -> Sequence[Finding]:
        return [Finding(kind) for kind in sorted({kind for piece in windows(text) for kind in self._kinds(piece)})]

    def _kinds(self, text: str) -> set[str]:
        kinds = {detector.secret_type.lower() for detector in self._detectors for _ in detector.analyze_string(text)}
        if _EMAIL.search(text):
            kinds.add("mail address")
        if _PHONE.search(text):
            kinds.add("phone number")
        if any(self._iban.is_valid(number) for found in _IBAN.findall(text) for number in _starts(found)):
            kinds.add("iban")
        if any(self._is_card(number) for found in _CARD.findall(text) for number in _starts(found)):
            kinds.add("card number")
        if any(self._ssn.is_valid(found) for found in _SSN.findall(text)):
            kinds.add("social security number")
        return kinds

    def _is_card(self, digits: str) -> bool:
        return len(digits) >= 13 and bool(self._luhn.is_valid(digits)) and len(set(digits)) > 1


def _starts(found: str) -> Iterator[str]:
    """A number up to the end of each of its groups: what follows it (a date, a word in capitals) may look like one group more."""
    for end in _GROUP_END.finditer(found):
        yield re.sub(r"[ -]", "", found[: end.start()])
