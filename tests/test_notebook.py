"""The notebook of the documents runs from top to bottom, and is committed without outputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

HOME = Path(__file__).parents[1]
NOTEBOOK = HOME / "docs" / "from-ids-to-logits.ipynb"
RUN = (
    "import sys, nbformat, nbclient\n"
    "notebook = nbformat.read(sys.argv[1], 4)\n"
    "nbclient.NotebookClient(notebook, timeout=200, kernel_name='python3').execute()\n"
    "print([output for cell in notebook.cells for output in cell.get('outputs', [])])\n"
)


def test_it_has_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_bytes())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("fault", ["", "gelu(linear(x"])
def test_it_runs(fault: str, tmp_path: Path) -> None:
    """With a fault in it, its own comparison with the model fails."""
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason="not run: nbclient and ipykernel are not installed")
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert fault in text
    (tmp_path / "copy.ipynb").write_text(
        text.replace(fault, "torch.relu(linear(x") if fault else text
    )
    # In a process of its own: its sockets are local, and a kernel's warnings are not ours.
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "copy.ipynb")],
        capture_output=True,
        text=True,
        check=False,
        cwd=HOME,
        timeout=280,
    )
    if fault:
        assert done.returncode == 1
        assert "Tensor-likes are not close" in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-3000:]
        assert "embeddings.tokens" in done.stdout
