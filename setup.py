"""Everything that packaging needs to know is read from settings.ini, the file nbdev reads too"""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def listed(key):
    return cfg[key].split()


extras = {
    name: listed(f"{name}_requirements")
    for name in ("serve", "jobs", "sagemaker", "notebook", "demo", "data", "images", "check", "loggers", "sweep")
}
extras["studio"] = sorted({r for name in ("serve", "sagemaker", "notebook") for r in extras[name]})
extras["demo"] = sorted({r for name in ("demo", "serve", "jobs", "check") for r in extras[name]})
extras["dev"] = [r for name in ("studio", "demo", "images", "loggers", "sweep") for r in extras[name]]
extras["dev"] += listed("dev_requirements")

setup(
    name=cfg["distribution"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=listed("keywords"),
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["mlkit", "mlkit.*"]),
    include_package_data=True,
    zip_safe=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=listed("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": listed("console_scripts")},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
