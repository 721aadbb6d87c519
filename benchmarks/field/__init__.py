"""Model optimisers side by side: the same models, items, judge and meter for all of them.

Every optimiser is run as its documentation says, in an environment of its own, and hands back a
file. All files are then judged on the same held-out items, and take turns while joules are read:

    python -m benchmarks.field demo --peers onnxruntime-static nncf
"""
