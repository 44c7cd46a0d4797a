"""What the page about GPUs shows runs on a device, from its first line to its last."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-gpus.md"


def test_the_programs_of_the_page_run_one_after_the_other(tmp_path):
    program = tmp_path / "page.py"
    parts = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    program.write_text("".join(parts) + "print(type(loss.array).__module__)\n")

    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    loss, *explained, module = done.stdout.strip().splitlines()
    assert 1.5 < float(loss) < 4  # of ten classes at random
    assert "  runs as one CUDA graph" in explained
    assert module == "cupy"
