from setuptools import setup

setup(name="shapes-of-rows", version="1.0", package_dir={"": "src"}, packages=["shapes"])
