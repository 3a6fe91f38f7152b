"""Run with the installed wheel: every registered plugin can be constructed, and the first example runs."""

import unlearn
from unlearn import registry

for kind in (registry.methods, registry.metrics, registry.subjects, registry.scenarios):
    for name in kind.names():
        cls = kind.get(name)
        if kind in (registry.methods, registry.metrics):
            cls()
    print(f"{len(kind.names())} {kind.kind}s")

report = unlearn.run("salun", scenario="digits/class=3", seed=0)
assert report.score("accuracy/forget") is not None
print(
    f"salun in {report.costs.seconds:.1f} s from {unlearn.__file__.partition('site-packages')[2] or 'a checkout'}"
)
assert "site-packages" in unlearn.__file__
