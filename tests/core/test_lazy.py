import subprocess
import sys

import pytest

import paperworks.evidence
import paperworks.robustness


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


def test_a_name_whose_package_is_missing_says_which_extra_brings_it(monkeypatch):
    module = "paperworks.robustness.attacks.training"
    for name in [name for name in sys.modules if name.startswith("paperworks.robustness.attacks")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ModuleNotFoundError, match=r"train_atla needs; `pip install 'paperworks\[rl\]'` brings it"):
        _ = paperworks.robustness.train_atla
    assert module not in sys.modules
