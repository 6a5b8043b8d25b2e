"""Run cells in an IPython shell, collect the handlers that they define, and print what came of each case as JSON.

A case has cells, and an expression that is evaluated in the notebook and in the collected program. In: the cases as
JSON on stdin.
"""

import json
import linecache
import sys

from IPython.core.interactiveshell import InteractiveShell

from mlkit.sagemaker.artifacts.archive import BundleError
from mlkit.sagemaker.artifacts.cell_source import collect_functions
from mlkit.sagemaker.endpoint.handlers import HANDLER_SPECS, Handlers


def run_case(shell, case, initial_names):
    for name in shell.user_ns.keys() - initial_names:
        del shell.user_ns[name]
    shell.compile.reset_compiler_flags()
    for name in [name for name in linecache.cache if "ipython-input" in name]:
        del linecache.cache[name]
    shell.history_manager.input_hist_parsed[:] = [""]
    for cell in case["cells"]:
        result = shell.run_cell(cell, store_history=case.get("history", True))
        result.raise_error()
    namespace = shell.user_ns
    source = namespace.get("handlers")
    if source is None:
        source = {name: namespace[name] for name in HANDLER_SPECS if name in namespace}
    try:
        functions = source if isinstance(source, dict) else Handlers.load(source).functions
        program = collect_functions(functions)
    except BundleError as e:
        return {"error": str(e)}
    module = {"__name__": "handlers"}
    try:
        exec(compile(program.text, "handlers.py", "exec"), module)  # noqa: S102 (it is what the test is about)
        return {
            "text": program.text,
            "expected": repr(eval(case["try"], namespace | functions)),  # noqa: S307 (an expression of the test)
            "result": repr(eval(case["try"], module)),  # noqa: S307 (an expression of the test)
        }
    except Exception as e:
        return {"text": program.text, "failed": f"{type(e).__name__}: {e}"}


if __name__ == "__main__":
    shell = InteractiveShell.instance()
    initial_names = set(shell.user_ns)
    cases = json.load(sys.stdin)
    results = [run_case(shell, case, initial_names) for case in cases]
    print(json.dumps(results), file=sys.__stdout__)
