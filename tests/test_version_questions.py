"""Every form in which a version can be asked for, planted: each is found, and by its name."""

import pytest

from tests.version_questions import questions

BY_NAME = {
    "import torch as t\nt.__version__.split('.')": "torch.__version__",
    "from torch import __version__": "torch.__version__",
    "def f(module):\n    return module.__version__": "?.__version__",
    "import torch\ntorch.version.cuda": "torch.version",
    "import torch\ntorch.__config__.show()": "torch.__config__",
    "import torch.version": "torch.version",
    "from torch.torch_version import __doc__": "torch.torch_version",
    "from torch import TorchVersion": "torch.TorchVersion",
    "from torch import *": "torch.*",
    "from importlib.metadata import version": "importlib.metadata",
    "from importlib.metadata import *": "importlib.metadata",
    "from importlib import metadata\nmetadata.version('torch')": "importlib.metadata",
    "import importlib.metadata as m": "importlib.metadata",
    "import importlib.metadata": "importlib.metadata",
    "def f():\n    from importlib.metadata import distribution": "importlib.metadata",
    "import importlib_metadata\nimportlib_metadata.version('torch')": "importlib_metadata",
    "from packaging.version import Version": "packaging",
    "from packaging import version": "packaging",
    "from looseversion import LooseVersion": "looseversion",
    "from distutils.version import LooseVersion": "distutils",
    "import numpy as np\nnp.version.full_version": "numpy.version",
    "import sys\nsys.hexversion": "sys.hexversion",
    "import platform\nplatform.python_version()": "platform.python_version",
    "import pkg_resources": "pkg_resources",
    "import sys\nprint(sys.version_info)": "sys.version_info",
    "from sys import version_info as v": "sys.version_info",
    "import sys\nsys.version.startswith('3.11')": "sys.version",
    "from sys import version": "sys.version",
    "import sys\nsys.implementation.cache_tag": "sys.implementation",
    "import sysconfig\nsysconfig.get_config_var('VERSION')": "sysconfig",
    "import platform\nplatform.python_version_tuple()": "platform.python_version_tuple",
    "from transformers.utils import is_torch_greater_or_equal as f": (
        "transformers.utils.is_torch_greater_or_equal"
    ),
    "from transformers import utils\nutils.is_torch_flex_attn_available()": (
        "transformers.utils.is_torch_flex_attn_available"
    ),
    "from transformers import utils\nutils.is_ftfy_available()": (
        "transformers.utils.is_ftfy_available"
    ),
    "def f(utils):\n    return utils.is_transformers_version('5')": "?.is_transformers_version",
    "from transformers.utils import import_utils as u\nu._torch_version": (
        "transformers.utils.import_utils._torch_version"
    ),
    "from transformers.utils import torch_version": "transformers.utils.torch_version",
    "from transformers.utils.versions import require_version": "transformers.utils.versions",
}
"""What says in its name that it knows of versions."""

BY_TEXT = {
    "import torch\ngetattr(torch, '__version__')": "'__version__'",
    "import operator\noperator.attrgetter('__version__')": "'__version__'",
    "import operator\noperator.attrgetter('torch.__version__')": "'__version__'",
    "def f(module):\n    return vars(module)['__version__']": "'__version__'",
    "from importlib import import_module\nimport_module('importlib.metadata')": (
        "importlib.metadata"
    ),
    "import importlib\nimportlib.import_module('torch.version')": "torch.version",
    "__import__('packaging.version')": "packaging",
    "import sys\nsys.modules['torch.version']": "torch.version",
    "import importlib.util\nimportlib.util.find_spec('torch.nn.attention')": (
        "find_spec(torch.nn.attention)"
    ),
    "import pytest\npytest.importorskip('torch.nn.attention')": (
        "importorskip(torch.nn.attention)"
    ),
}
"""What is named in a literal."""

BY_FEELING = {
    "import torch\nhasattr(torch, 'compile')": "hasattr(torch)",
    "import torch\nhasattr(torch.backends.mkldnn, 'x')": "hasattr(torch.backends.mkldnn)",
    "import sys\nhasattr(sys, 'monitoring')": "hasattr(sys)",
    "from torch import nn\ngetattr(nn, 'Buffer', None)": "getattr(torch.nn)",
    "import torch\ngetattr(torch, 'x', *[None])": "getattr(torch)",
    "from transformers import GenerationConfig as G\nhasattr(G(), 'x')": (
        "hasattr(transformers.GenerationConfig())"
    ),
    "from transformers import GenerationConfig as G\nc = G()\nhasattr(c, 'x')": (
        "hasattr(transformers.GenerationConfig())"
    ),
    "import torch\nm = torch.backends\nhasattr(m, 'x')": "hasattr(torch.backends)",
    "import torch\nb = a.mkldnn\na = torch.backends\nhasattr(b, 'x')": (
        "hasattr(torch.backends.mkldnn)"
    ),
    "import torch\na, b = 1, torch.nn\nhasattr(b, 'x')": "hasattr(torch.nn)",
    "import torch\nif (m := torch.nn):\n    hasattr(m, 'x')": "hasattr(torch.nn)",
    "import torch\nm: object = torch.nn\nhasattr(m, 'x')": "hasattr(torch.nn)",
    "import torch\ndef f(a, t=torch):\n    return hasattr(t, 'x')": "hasattr(torch)",
    "import torch\ndef f(*, t=torch.nn):\n    return hasattr(t, 'x')": "hasattr(torch.nn)",
    "import typer\nhasattr(typer.Option, 'x')": "hasattr(typer.Option)",
    "import torch\n'x' in dir(torch)": "dir(torch)",
    "import torch\n'x' in vars(torch)": "vars(torch)",
    "import torch\n'x' in torch.__dict__": "torch.__dict__",
    "import inspect, torch\ninspect.getmembers(torch.nn)": "inspect.getmembers(torch.nn)",
    "from inspect import signature\nfrom transformers import GPT2Model as M\nsignature(M)": (
        "inspect.signature(transformers.GPT2Model)"
    ),
}
"""What looks into a package for what it has."""

BY_TRYING = {
    "try:\n    from torch.nn import Buffer\nexcept ImportError:\n    Buffer = None": (
        "ImportError of torch"
    ),
    "try:\n    import torch.x\nexcept ModuleNotFoundError:\n    pass": (
        "ModuleNotFoundError of torch"
    ),
    "import torch\ntry:\n    torch.compile\nexcept (AttributeError, OSError):\n    pass": (
        "AttributeError of torch"
    ),
    "from torch import load\ntry:\n    load('x', mmap=True)\nexcept TypeError:\n    load('x')": (
        "TypeError of torch"
    ),
    "from torch import *\nfrom torch import nn\ntry:\n    nn.Buffer\nexcept NameError:\n    pass": (
        "NameError of torch"
    ),
    "import contextlib, torch\nwith contextlib.suppress(AttributeError):\n    torch.compile()": (
        "AttributeError of torch"
    ),
}
"""What goes on where a package lacks something."""

PAST_THE_ANSWERS = {
    "from reference import compat\nprint(compat.describe('torch'))": "reference.compat.describe",
    "from reference import compat as c\nprint(c.installed_version('torch'))": (
        "reference.compat.installed_version"
    ),
    "from reference.compat import parse_version\nparse_version('2.9')": (
        "reference.compat.parse_version"
    ),
    "from reference.compat import DIFFERENCES as D\nprint(D['x'].holds())": (
        "reference.compat.DIFFERENCES"
    ),
    "import reference.compat\nreference.compat.describe('torch')": "reference.compat.describe",
    "from . import compat\ncompat.describe('torch')": "reference.compat.describe",
    "from .compat import installed_version": "reference.compat.installed_version",
    "from reference.compat import *": "reference.compat.*",
    "from reference import compat\ngetattr(compat, 'installed_version')('torch')": (
        "reference.compat"
    ),
    "from reference import compat\ntable = compat\ntable.describe('torch')": (
        "reference.compat.describe"
    ),
}
"""What opens the table instead of taking its answers."""

PLANTED = BY_NAME | BY_TEXT | BY_FEELING | BY_TRYING | PAST_THE_ANSWERS


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_question_is_found(source: str) -> None:
    """However and wherever it stands, it is named."""
    assert PLANTED[source] in questions(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nif torch.__version__ > '2': ...",
        "import torch\nx = 1 if torch.__version__ > '2' else 2",
        "import torch\nx = torch.__version__ > '2'",
        "import torch\nwhile torch.__version__.startswith('2'): ...",
        "import torch\nx = torch.__version__.startswith('2') and 1",
        "import torch\nx = [1 for _ in '1' if torch.__version__.startswith('2')]",
        "import torch\nmatch torch.__version__:\n    case '2': ...",
    ],
)
def test_who_decides_by_it_is_told_from_who_writes_it_down(source: str) -> None:
    """So that nobody is listed for the one and does the other."""
    expected = {"torch.__version__", "decided by torch.__version__"}
    assert expected == questions(source)
    assert questions("import torch\nx = {'torch': torch.__version__}") == {"torch.__version__"}
    assert questions("import torch\nassert torch.__version__ == x") == {"torch.__version__"}


@pytest.mark.parametrize(
    "source",
    [
        "from reference import compat\ncompat.unpickles_safely()",
        "from reference.compat import dtype_keyword\ndtype_keyword(1)",
        "from . import hub, compat\ncompat.last_logits_keyword()",
        "import os\nhasattr(os, 'fork')",
        "import torch\ngetattr(torch, 'float64')",
        "import torch\ntorch.backends.mkldnn.is_available()",
        "def f(model):\n    return hasattr(model, 'h')",
        "def f(x):\n    return x._version",
        "import importlib.util\nimportlib.util.find_spec('triton')",
        "import importlib\nimportlib.import_module('torch.nn')",
        "import inspect\ndef f(x):\n    return inspect.signature(x)",
        "import torch\ntry:\n    torch.ones(1)\nexcept ValueError:\n    pass",
        "import torch\ntry:\n    torch.ones(1)\nexcept TypeError as e:\n    raise Exit from e",
        "try:\n    int('x')\nexcept TypeError:\n    pass",
        "schema_version = 3\nversion = schema_version",
    ],
)
def test_what_is_no_question_is_left_alone(source: str) -> None:
    """The table's own answers, other things that may be missing, other versions, a refusal."""
    assert not questions(source)


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.run(['pip', 'show', 'torch'])",
        "def f(owner, name):\n    return hasattr(owner, name)",
        "import torch\nfor m in (torch, torch.nn):\n    hasattr(m, 'x')",
        "import torch\nhasattr(*(torch, 'x'))",
        "import torch\ngetattr(torch, '__ver' + 'sion__')",
        "import torch\ntry:\n    torch.compile()\nexcept Exception:\n    pass",
        "exec('import torch; hasattr(torch, 1)')",
    ],
)
def test_what_is_not_seen_is_said(source: str) -> None:
    """The limits that docs/versions.md names; one that falls is to be struck out there."""
    assert not questions(source)
