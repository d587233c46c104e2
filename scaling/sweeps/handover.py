"""Files for a program of the user's that starts jobs elsewhere: a YAML description and a script."""

import pathlib
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from scaling.sweeps.local import LaunchError


def write(path: pathlib.Path, documents: Sequence[Any], script: str) -> pathlib.Path:
    """Writes the YAML documents to `path`, and beside it an executable script, which it returns.

    Raises:
      LaunchError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise LaunchError(f"{error}: pip install 'scaling[sweep]'") from error

    class Plain(yaml.SafeDumper):
        """Without anchors, which people find hard to read."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    path.write_text(yaml.dump_all(documents, Dumper=Plain, sort_keys=False), encoding="utf-8")
    start = path.with_suffix(".sh")
    start.write_text(script, encoding="utf-8")
    start.chmod(0o755)
    print(f"wrote {path} and {start}")
    return start


def run(tool: str, start: pathlib.Path) -> int:
    """Runs a script that needs a tool of the user's.

    Raises:
      LaunchError: the tool is not on the path.
    """
    if shutil.which(tool) is None:
        raise LaunchError(f"--submit needs `{tool}` on the path; without it, run {start} elsewhere")
    return subprocess.run([str(start)], check=False).returncode
