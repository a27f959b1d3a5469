# SPDX-License-Identifier: MIT
"""Packaging of pushpull. The version stands in `pushpull/__init__.py` and nowhere else."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """Read, not imported: a build environment has none of the program's dependencies."""
    text = (HERE / "pushpull" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('setup.py: pushpull/__init__.py has no line __version__ = "..."')
    return found[1]


def shared_files() -> list[tuple[str, list[str]]]:
    """Manual pages and the sample configuration, to go under PREFIX/share."""
    wanted = {
        "share/man/man1": "docs/man/*.1",
        "share/man/man5": "docs/man/*.5",
        "share/doc/pushpull/examples": "pushpull.conf.sample",
    }
    found = {place: sorted(str(path.relative_to(HERE)) for path in HERE.glob(glob)) for place, glob in wanted.items()}
    return [(place, paths) for place, paths in found.items() if paths]


setup(
    # `pushpull` on PyPI is another project's name; package and command are `pushpull` all the same.
    name="pushpull-mail",
    version=version(),
    description="Two-way synchronisation of an IMAP account with Maildir folders",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the pushpull contributors",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["imap", "maildir", "mail", "synchronisation"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: End Users/Desktop",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Communications :: Email :: Post-Office :: IMAP",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=["pushpull"],
    package_data={"pushpull": ["py.typed"]},
    include_package_data=False,
    data_files=shared_files(),
    install_requires=[
        "imap-tools>=1.16",
        "inotify_simple>=2.0.1",
        "python-daemon>=3.1.2",
        "tenacity>=9.1",
    ],
    extras_require={
        "bench": ["cryptography>=42", "matplotlib>=3.8"],
        "demo": ["cryptography>=42", "pymap>=0.36.7"],
        "test": [
            "cryptography>=42",
            "hypothesis>=6.100",
            "pymap>=0.36.7",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
        ],
    },
    entry_points={"console_scripts": ["pushpull = pushpull.cli:program"]},
    zip_safe=False,
)
