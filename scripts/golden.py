"""The resolved form of every shipped config, kept under test so that a changed default shows.

python scripts/golden.py            # compares, exit code 1 and a table if they differ
python scripts/golden.py --write    # after a change that was meant
"""

import pathlib
import sys
from collections.abc import Sequence

from scaling import cli
from scaling.configs import dump, files
from scaling.configs.errors import ConfigError

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"
GOLDEN = ROOT / "tests" / "golden"

OPTIONS = (cli.Option("write", "Write the dumps instead of comparing them."),)
USAGE = __doc__.strip()


def shipped(folder: pathlib.Path = EXPERIMENTS) -> dict[str, str]:
    """{name of the dump: spec} of every config file in a folder, one for each of its `VARIANTS`."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        if "def get_config(" not in path.read_text(encoding="utf-8"):
            continue  # a reproduction that trains nothing
        for variant in files.variants(path) or ():
            name = "-".join([*path.relative_to(folder).with_suffix("").parts, variant])
            found[name.strip("-")] = f"{path}:{variant}" if variant else str(path)
    return found


def main(argv: Sequence[str]) -> int:
    """Compare the dumps with the shipped configs, or write them."""
    values, _ = cli.read(argv, OPTIONS, USAGE)
    specs = shipped()
    if values.get("write"):
        texts = {name: dump.to_json(files.load_resolved(spec)) for name, spec in specs.items()}
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for stale in GOLDEN.glob("*.json"):
            stale.unlink()
        for name, text in texts.items():
            (GOLDEN / f"{name}.json").write_text(text, encoding="utf-8")
        print(f"wrote {len(specs)} dumps to {GOLDEN}")
        return 0
    differing = [name for name in sorted({*specs, *dumped()}) if not _agrees(name, specs)]
    return 1 if differing else 0


def dumped() -> list[str]:
    """Names of the dumps that are there."""
    return sorted(path.stem for path in GOLDEN.glob("*.json"))


def differences(name: str, spec: str) -> list[dump.Difference]:
    """Leaves in which a shipped config differs from its dump.

    Raises:
      ConfigError: there is no dump, or the config does not resolve.
    """
    path = GOLDEN / f"{name}.json"
    if not path.exists():
        raise ConfigError(name, "has no dump", "run python scripts/golden.py --write")
    return dump.diff(dump.decode(path.read_text(encoding="utf-8")), files.load_resolved(spec))


def _agrees(name: str, specs: dict[str, str]) -> bool:
    if name not in specs:
        print(f"{name}: a dump without a config; run with --write")
        return False
    try:
        found = differences(name, specs[name])
    except ConfigError as error:
        print(f"{name}: {error}")
        return False
    if found:
        print(f"{name}:\n{dump.format_differences(found, 'dump', 'config')}")
    return not found


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv[1:]))
