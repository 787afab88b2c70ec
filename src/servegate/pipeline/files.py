"""Where the pipeline's files are: the working folder when it has them, else the ones that came with the package."""

from __future__ import annotations

from pathlib import Path

import servegate
from servegate.errors import ConfigError

FOLDERS = ("evals", "gates", "loadtest", "rollout")


def find(relative: str) -> Path:
    """Find a file of the pipeline, such as `gates/release.yaml`.

    Raises:
        ConfigError: it is nowhere.
    """
    package = Path(servegate.__file__).parent
    # An editable checkout has the folders beside src, a wheel has them as its scaffold.
    places = [Path.cwd(), package / "scaffold", package.parent.parent]
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise ConfigError(f"{relative}: not found in {', '.join(str(place) for place in places)}")
