"""Plans of all kinds, for valgrind's memcheck to watch: layouts, floats, empty arrays, rows, options, refusals."""

import numpy as np
import schuss

schuss.set_num_threads(1)
rng = np.random.default_rng(0)
for rule in ("SGD", "Adam", "LAMB", "Muon"):
    opt = schuss.optimizers.OPTIMIZERS[rule](ema=0.9, clip_norm=1.0, groups={"a*": {"lr": 0.5}})
    for _ in range(3):
        whole = rng.normal(size=(40, 60))
        params = {"a": whole[::-2, ::3], "ab": rng.normal(size=(7, 5)).T, "c": rng.normal(size=(33, 65)).astype("f4")}
        if rule != "Muon":
            params |= {"d": np.zeros((0, 3)), "e": 1.5, "f": np.float32(2), "g": np.array(3.0)}
            params |= {"h": rng.normal(size=2000)}
        grads = {name: rng.normal(size=np.shape(p)).astype(np.asarray(p).dtype) for name, p in params.items()}
        grads = {name: float(g) if isinstance(params[name], float) else g for name, g in grads.items()}
        if "f" in grads:
            grads["f"] = np.float32(grads["f"])
        opt.update(params, grads, grad_scale=0.5)
        for bad in ({"a": whole[:3]}, {"c": params["a"]}, {"x": whole}, {"a": None, "c": "text"}):
            try:
                opt.update(params, {**grads, **bad})
            except (TypeError, ValueError):
                continue
            raise AssertionError(bad)

for care in (1, 2):
    schuss._core.set_care(care)
    opt, params = schuss.AdamW(ema=0.9, clip_norm=1.0), {"E": rng.normal(size=(50, 7)), "F": np.ones(9, "f4")}
    for _ in range(4):
        read = {"E": rng.integers(0, 50, 6), "F": rng.integers(0, 9, 3)}
        rows = {
            n: schuss.Rows(read[n], np.full((len(read[n]), *p.shape[1:]), 1e-40, p.dtype)) for n, p in params.items()
        }
        opt.catch_up(params, read)
        opt.update(params, rows)
    opt.catch_up(params)
print("done")
