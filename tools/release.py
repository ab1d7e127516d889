"""A release: check, build, check what was built, and tag. Without --tag nothing is changed.

    make release                 # all but the tag: what would be released, in dist/
    make release ARGS=--tag      # dates the changelog, commits and tags

What is pushed and uploaded is left to you; the commands are printed in the end.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PACKED = ("docs/index.md", "tests/conftest.py", "examples/common.py", "CHANGELOG.md", "Makefile")
"""Some of what the source distribution must hold."""


class Refused(Exception):
    """What stands in the way of a release."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tag", action="store_true", help="date the changelog, commit and tag")
    tag = parser.parse_args().tag
    try:
        version = versions()
        notes = section((ROOT / "CHANGELOG.md").read_text("utf-8"), version)
        for problem in unready(version):
            if tag:
                raise Refused(problem)
            print(f"would be refused: {problem}")
        if tag:
            date(version)
        for built in build():
            check(built, version)
        (DIST / "notes.md").write_text(notes, "utf-8")
        print(f"\n{notes}\ndist/: {', '.join(sorted(path.name for path in DIST.iterdir()))}")
    except Refused as error:
        sys.exit(f"release: {error}")
    if tag:
        run("git", "tag", "-a", f"v{version}", "--cleanup=verbatim", "-F", str(DIST / "notes.md"))
        print(f"tagged v{version}; now\n    git push origin HEAD v{version}")
    else:
        print(f"\na dry run; `make release ARGS=--tag` would tag v{version}, and then\n"
              f"    git push origin HEAD v{version}")  # fmt: skip
    print(f"    {sys.executable} -m twine upload dist/*.whl dist/*.tar.gz")


def run(*command: str) -> str:
    """What a command printed."""
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Refused(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def versions() -> str:
    """The version, which three files must agree on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = {"pyproject.toml": project["version"]}
    for name, pattern in {
        "src/jetfold/__init__.py": r'^__version__ = "(.*)"$',
        "CITATION.cff": r"^version: (.*)$",
    }.items():
        match = re.search(pattern, (ROOT / name).read_text("utf-8"), re.MULTILINE)
        found[name] = match[1] if match else "none"
    if len(set(found.values())) > 1:
        raise Refused("the versions differ: " + ", ".join(f"{n} has {v}" for n, v in found.items()))
    return str(project["version"])


def section(changelog: str, version: str) -> str:
    """What the changelog says of a version."""
    head = rf"^## \[{re.escape(version)}\] - [^\n]*"
    match = re.search(head + r"\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if match is None or not match[1].strip():
        raise Refused(f"CHANGELOG.md says nothing of {version}: it needs '## [{version}] - date'")
    return f"jetfold {version}\n\n{match[1].strip()}\n"


def unready(version: str) -> Iterator[str]:
    """What a tag must wait for."""
    if run("git", "status", "--porcelain"):
        yield "there are changes that are not committed"
    if run("git", "tag", "--list", f"v{version}"):
        yield f"the tag v{version} is there already"


def date(version: str) -> None:
    """Put today's date into the changelog, and commit that."""
    path = ROOT / "CHANGELOG.md"
    text = path.read_text("utf-8")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    dated = text.replace(f"## [{version}] - Unreleased", f"## [{version}] - {today}")
    if dated != text:
        path.write_text(dated, "utf-8")
        run("git", "commit", "-m", f"Release {version}", "--", path.name)


def build() -> list[Path]:
    """The source distribution, and the wheel that is built from it."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))
    built = sorted(DIST.iterdir())
    print(run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built)).strip())
    return built


def check(built: Path, version: str) -> None:
    """What is inside, and that the wheel runs."""
    if built.suffix == ".whl":
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(built) as wheel:
            metadata = wheel.read(f"jetfold-{version}.dist-info/METADATA").decode("utf-8")
            for problem in misfits(metadata):
                raise Refused(problem)
            wheel.extractall(folder)  # it is pure Python
            code = f"import sys; sys.path.insert(0, {folder!r}); import jetfold.__main__ as m; "
            printed = run(sys.executable, "-c", code + "print(m.__file__); m.main(['--version'])")
        if printed.split()[1:] != ["jetfold", version] or folder not in printed:
            raise Refused(f"the wheel does not run: {printed}")
    else:
        with tarfile.open(built) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        if missing := [name for name in PACKED if name not in names]:
            raise Refused(f"{built.name} lacks {', '.join(missing)}")


def misfits(metadata: str) -> Iterator[str]:
    """What an index would show wrongly."""
    message = Parser().parsestr(metadata)
    text = str(message.get_payload())
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith(("https://", "#")):
            yield f"a link of the README leads nowhere on an index page: {link}"
    labels = {entry.partition(",")[0] for entry in message.get_all("Project-URL", [])}
    if missing := {"Documentation", "Source", "Issues", "Changelog"} - labels:
        yield f"project URLs are missing: {', '.join(sorted(missing))}"


if __name__ == "__main__":
    main()
