"""Writes constraints.txt from `pip freeze` of the environments that the tests passed in.

    python scripts/freeze.py py311.txt py313.txt > constraints.txt

The first list holds for Python < 3.12 (the oldest JAX), the second for Python >= 3.12.
"""

import pathlib
import sys


def read(path: str) -> dict[str, str]:
    """Package name -> version of one freeze."""
    pins = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        name, separator, version = line.strip().partition("==")
        if separator and name.lower() != "scaling":
            pins[name.lower().replace("_", "-")] = version
    return pins


def main(old: str, new: str) -> None:
    """Prints the constraints, with a marker where the two environments differ."""
    before, after = read(old), read(new)
    print("# Versions that the tests passed with; made by scripts/freeze.py, not by hand.")
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            print(f"{name}=={before[name]}")
            continue
        if name in before:
            print(f'{name}=={before[name]}; python_version < "3.12"')
        if name in after:
            print(f'{name}=={after[name]}; python_version >= "3.12"')


if __name__ == "__main__":
    main(*sys.argv[1:])
