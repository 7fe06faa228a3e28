import subprocess
import sys

import pytest

import paperworks.evidence


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'paperworks\.evidence' has no attribute 'Nothing'"):
        _ = paperworks.evidence.Nothing


def test_every_export_is_there():
    for name in paperworks.evidence.__all__:
        assert getattr(paperworks.evidence, name).__name__ == name


def test_importing_packages_imports_nothing_heavy():
    code = (
        "import sys, paperworks, paperworks.evidence, paperworks.diffusion, paperworks.testbeds, paperworks.papers\n"
        "print([m for m in ('torch', 'scipy', 'numpy', 'matplotlib', 'joblib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
