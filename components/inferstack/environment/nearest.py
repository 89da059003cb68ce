"""The key that was probably meant by one that an environment does not have."""

import difflib
import re

from inferstack.environment.explain import inner_section, rows
from inferstack.environment.kinds import Section
from inferstack.environment.schema import Environment

Location = tuple[str | int, ...]


def section_at(location: Location) -> type[Section]:
    """The section that stands at a place of an environment; positions in lists and names in mappings are passed over."""
    section: type[Section] = Environment
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = inner_section(section.model_fields[part].annotation)[0] or section
    return section


def nearest_key(location: Location) -> str | None:
    """The key that was probably meant by the one at `location`.

    In order: the same in another spelling (`maxNodes`), one letter off, by its initials (`rpm`), as a part of a longer key (`url` of
    `url_secret`), the path of the same words elsewhere (`min_replicas`: `slots.replicas.min`), and what is at least half alike.
    """
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(location[-1])).lower().replace("-", "_")
    here = list(section_at(location[:-1]).model_fields)
    words = set(word.split("_"))
    options = [
        *(key for key in here if key == word),
        *difflib.get_close_matches(word, here, n=1, cutoff=0.8),
        *(key for key in here if "".join(part[0] for part in key.split("_")) == word),
        *(key for key in here if key.startswith(f"{word}_") or key.endswith(f"_{word}")),
        *(path for path, *_ in rows() if path.rpartition(".")[2] == word),
        *(path for path, *_ in rows() if set(re.split(r"[._]", ".".join(path.split(".")[-2:]))) == words),
        *difflib.get_close_matches(word, here, n=1, cutoff=0.5),
    ]
    return next((option for option in options if option != str(location[-1])), None)
