"""Calls of NumPy's functions, each to be compared with NumPy and differentiated."""

import numpy as np

from distgrad.testing.inputs import frozen, values


def draw(*shape, low=-2.1, high=2.0, seed=0):
    return values(shape, low, high, seed=seed)


A = draw(3, 4)
B = draw(3, 4, low=-1.9, high=2.15, seed=1)
V = draw(5)
W = draw(5, seed=1)
C = draw(2, 3, 4)
P = draw(3, 4, low=0.4, high=2.0)
S = draw(4, 4)
SPD = frozen(draw(4, 4) @ draw(4, 4).T + 4 * np.eye(4))
GAPS = A.copy()
GAPS[0, 1] = GAPS[2, 3] = np.nan
GAPS = frozen(GAPS)
MASK = frozen(A > 0)
PLACES = frozen(np.array([2, 0, 2]))


def of(f, *arrays, **options):
    """Return a call of a function on arrays, all of which it is differentiated in."""
    return lambda *given: f(*given, **options), arrays


CALLS = {
    # reductions
    "sum": of(np.sum, A, axis=0, keepdims=True),
    "sum-where": of(np.sum, A, axis=1, where=MASK, initial=2.0),
    "prod": of(np.prod, A, axis=1),
    "prod-where": of(np.prod, A, where=MASK, initial=0.5),
    "max": of(np.max, A, axis=0),
    "max-initial": of(np.max, A, axis=0, initial=0.3, where=MASK),
    "amin": of(np.amin, A),
    "mean": of(np.mean, A, axis=(0, 1)),
    "mean-where": of(np.mean, A, axis=0, where=frozen(B > -1.5)),
    "var": of(np.var, A, axis=1, ddof=1),
    "var-where": of(np.var, A, where=MASK),
    "std": of(np.std, A, axis=0, keepdims=True),
    "ptp": of(np.ptp, A, axis=1),
    "average": of(np.average, A, axis=1),
    "average-weights": of(lambda a, w: np.average(a, axis=1, weights=w), A, draw(4, low=0.5)),
    "average-returned": of(lambda a, w: np.average(a, axis=0, weights=w, returned=True), A, P),
    "nansum-where": of(lambda a: np.nansum(a, axis=0, where=MASK), GAPS),
    "nansum": of(np.nansum, GAPS, axis=0),
    "nanprod": of(np.nanprod, GAPS, axis=0),
    "nanmax": of(np.nanmax, GAPS, axis=1),
    "nanmin": of(np.nanmin, GAPS),
    "nanmean": of(np.nanmean, GAPS, axis=1),
    "nanvar": of(np.nanvar, GAPS, axis=1, ddof=1),
    "nanstd": of(np.nanstd, GAPS, axis=0, keepdims=True),
    "nanmedian": of(np.nanmedian, GAPS, axis=1),
    "nanquantile": of(lambda a: np.nanquantile(a, [0.1, 0.7], axis=0), GAPS),
    "nanpercentile": of(lambda a: np.nanpercentile(a, 30), GAPS),
    "nancumsum": of(np.nancumsum, GAPS, axis=1),
    "nancumprod": of(np.nancumprod, GAPS, axis=0),
    "cumsum": of(np.cumsum, A, axis=1),
    "cumsum-flat": of(np.cumsum, A),
    "cumprod": of(np.cumprod, A, axis=0),
    "cumulative_sum": of(np.cumulative_sum, A, axis=1, include_initial=True),
    "cumulative_prod": of(np.cumulative_prod, V),
    # shapes
    "reshape": of(lambda a: np.reshape(a, (2, 6)), A),
    "reshape-fortran": of(lambda a: np.reshape(a, (2, 6), order="F"), A),
    "ravel": of(np.ravel, A),
    "ravel-fortran": of(lambda a: np.ravel(a, order="F"), A),
    "transpose": of(lambda a: np.transpose(a, (2, 0, 1)), C),
    "permute_dims": of(np.permute_dims, A),
    "matrix_transpose": of(np.matrix_transpose, C),
    "swapaxes": of(lambda a: np.swapaxes(a, 0, -1), C),
    "rollaxis": of(lambda a: np.rollaxis(a, 2), C),
    "rollaxis-start": of(lambda a: np.rollaxis(a, 0, 3), C),
    "moveaxis": of(lambda a: np.moveaxis(a, 0, -1), C),
    "squeeze": of(np.squeeze, draw(1, 3, 1)),
    "expand_dims": of(lambda a: np.expand_dims(a, (0, -1)), A),
    "atleast_1d": of(np.atleast_1d, draw()),
    "atleast_2d": of(np.atleast_2d, V, A),
    "atleast_3d": of(np.atleast_3d, A),
    "atleast_3d-line": of(np.atleast_3d, V),
    "concatenate": of(lambda a, b: np.concatenate([a, b], axis=1), A, B),
    "concatenate-flat": of(lambda a, b: np.concatenate([a, b], axis=None), A, V),
    "stack": of(lambda a, b: np.stack([a, b], axis=-1), A, B),
    "vstack": of(lambda a, b: np.vstack([a, b]), V, W),
    "hstack": of(lambda a, b: np.hstack([a, b]), V, W),
    "hstack-matrices": of(lambda a, b: np.hstack([a, b]), A, B),
    "dstack": of(lambda a, b: np.dstack([a, b]), A, B),
    "column_stack": of(lambda a, b: np.column_stack([a, b]), V, W),
    "append": of(np.append, A, V),
    "append-axis": of(lambda a, b: np.append(a, b, axis=0), A, B),
    "block": of(lambda a, b: np.block([[a, b], [b, a]]), A, B),
    "block-line": of(lambda a, b: np.block([a, b]), V, W),
    "array_split": of(lambda a: np.array_split(a, 3, axis=1), A),
    "split": of(lambda a: np.split(a, [1, 3], axis=1), A),
    "vsplit": of(lambda a: np.vsplit(a, 3), A),
    "hsplit": of(lambda a: np.hsplit(a, 2), A),
    "dsplit": of(lambda a: np.dsplit(a, 2), C),
    "unstack": of(np.unstack, A),
    "flip": of(np.flip, A),
    "fliplr": of(np.fliplr, A),
    "flipud": of(np.flipud, A),
    **{f"rot90-{k}": of(lambda a, k=k: np.rot90(a, k), A) for k in (-1, 0, 1, 2, 3)},
    "roll": of(lambda a: np.roll(a, (1, -1), axis=(0, 1)), A),
    "roll-flat": of(lambda a: np.roll(a, 2), A),
    "resize": of(lambda a: np.resize(a, (4, 5)), A),
    "tril": of(lambda a: np.tril(a, -1), S),
    "triu": of(lambda a: np.triu(a, 1), S),
    "broadcast_to": of(lambda a: np.broadcast_to(a, (2, 3, 4)), A),
    "broadcast_arrays": of(np.broadcast_arrays, A, draw(4)),
    "meshgrid": of(np.meshgrid, V, draw(3)),
    "meshgrid-sparse": of(lambda a, b: np.meshgrid(a, b, sparse=True, indexing="ij"), V, draw(3)),
    "repeat": of(lambda a: np.repeat(a, 2, axis=1), A),
    "repeat-each": of(lambda a: np.repeat(a, [1, 0, 2], axis=0), A),
    "repeat-flat": of(lambda a: np.repeat(a, 2), A),
    "tile": of(lambda a: np.tile(a, (2, 1)), A),
    "copy": of(np.copy, A),
    "astype": of(lambda a: np.astype(a, np.float64), A),
    # order
    "sort": of(np.sort, A),
    "sort-flat": of(lambda a: np.sort(a, axis=None), A),
    "sort_complex": of(lambda a: np.real(np.sort_complex(a)), V),
    "partition": of(lambda a: np.partition(a, 2, axis=1), A),
    "median": of(np.median, A, axis=1),
    "median-no-lines": of(np.median, np.zeros((0, 3)), axis=-1),
    "median-even": of(np.median, A, axis=(0, 1), keepdims=True),
    **{
        f"quantile-{method}": of(
            lambda a, m=method: np.quantile(a, [0.0, 0.17, 0.5, 0.81, 1.0], axis=0, method=m),
            draw(6, 2),
        )
        for method in (
            "linear lower higher nearest midpoint hazen weibull median_unbiased normal_unbiased "
            "interpolated_inverted_cdf inverted_cdf averaged_inverted_cdf closest_observation"
        ).split()
    },
    "quantile-of-q": of(lambda a, q: np.quantile(a, q, axis=1), A, frozen(np.array([0.2, 0.55]))),
    "quantile-weights": of(
        lambda a: np.quantile(a, [0.2, 0.55], axis=0, weights=[1, 2, 0.5], method="inverted_cdf"), A
    ),
    "nanquantile-weights": of(
        lambda a: np.nanquantile(a, 0.3, axis=1, weights=P, method="inverted_cdf"), GAPS
    ),
    "percentile": of(lambda a: np.percentile(a, [[10, 90], [20, 55]], axis=1, keepdims=True), A),
    # selection
    "take": of(lambda a: np.take(a, PLACES, axis=0), A),
    "take-flat": of(lambda a: np.take(a, [[1, 5], [7, 1]]), A),
    "take-wrap": of(lambda a: np.take(a, [5, -6], axis=1, mode="wrap"), A),
    "take-clip": of(lambda a: np.take(a, [5, -6], axis=1, mode="clip"), A),
    "take_along_axis": of(lambda a: np.take_along_axis(a, np.argsort(A, axis=1), axis=1), A),
    "compress": of(lambda a: np.compress([True, False, True], a, axis=0), A),
    "extract": of(lambda a: np.extract(MASK, a), A),
    "delete": of(lambda a: np.delete(a, [0, 2], axis=1), A),
    "delete-slice": of(lambda a: np.delete(a, slice(0, 2)), A),
    "insert": of(lambda a, b: np.insert(a, 1, b, axis=0), A, draw(4)),
    "insert-several": of(lambda a, b: np.insert(a, [0, 2], b, axis=1), A, draw(3, 2)),
    "insert-line": of(lambda a, b: np.insert(a, 2, b), V, draw(3)),
    "insert-scalar": of(lambda a, b: np.insert(a, -1, b), V, draw()),
    "insert-flat": of(lambda a, b: np.insert(a, [3, 3], b), A, draw(2)),
    "take-index": of(lambda a: np.take(a, np.argsort(a[0]), axis=1), A),
    "where": of(lambda a, b: np.where(MASK, a, b), A, B),
    "where-own": of(lambda a: np.where(a > 0, a, 0), A),
    "select-own": of(lambda a: np.select([a > 0, a < -1], [a, a * a], default=3.0), A),
    "choose-wrap": of(lambda a, b: np.choose(np.astype(a > 0, int) + 5, [a, b], mode="wrap"), A, B),
    "piecewise-values": of(lambda a: np.piecewise(a, a > 0, [np.sin, 2]), V),
    "select": of(lambda a, b: np.select([MASK, B > 0], [a, b], 0.5), A, B),
    "choose": of(lambda a, b: np.choose(MASK.astype(int), [a, b]), A, B),
    "piecewise": of(lambda a: np.piecewise(a, [A > 0], [np.sin, lambda x: x**2]), A),
    "clip": of(lambda a: np.clip(a, -0.55, 0.65), A),
    "nan_to_num": of(np.nan_to_num, GAPS),
    "diagonal": of(lambda a: np.diagonal(a, 1, 0, 2), C),
    "trace": of(lambda a: np.trace(a, -1), S),
    "diag": of(lambda a: np.diag(a, 1), V),
    "diag-of": of(lambda a: np.diag(a, 1), S),
    "diagflat": of(np.diagflat, A),
    "unique": of(np.unique, V),
    "unique-axis": of(lambda a: np.unique(a, axis=0), A),
    "unique_all": of(lambda a: np.unique_all(a).values, V),
    "unique_counts": of(lambda a: np.unique_counts(a).values, V),
    "unique_inverse": of(lambda a: np.unique_inverse(a).values, V),
    "unique_values": of(lambda a: np.sort(np.unique_values(a)), V),
    "union1d": of(np.union1d, V, draw(4, low=2.5, high=3.5)),
    "setxor1d": of(np.setxor1d, V, draw(4, low=2.5, high=3.5)),
    "setdiff1d": of(lambda a: np.setdiff1d(a, [0.3]), V),
    "intersect1d": of(lambda a: np.intersect1d(a, a[::-1]), V),
    "bincount": of(lambda w: np.bincount([0, 2, 2, 1, 0], w, 6), V),
    "histogram": of(lambda w: np.histogram([0, 2, 2, 1, 5], 3, weights=w)[0], V),
    "histogram-density": of(
        lambda w: np.histogram([0, 2, 2, 1, 5.0], [0, 1, 2.5], weights=w, density=True)[0],
        draw(5, low=0.3),
    ),
    # signals
    "diff": of(lambda a: np.diff(a, 2, axis=0), S),
    "diff-ends": of(lambda a, b: np.diff(a, prepend=0.5, append=b), A, draw(3, 2)),
    "ediff1d": of(lambda a, b: np.ediff1d(a, to_end=b, to_begin=1.0), A, V),
    "trapezoid": of(lambda a: np.trapezoid(a, dx=0.3, axis=0), A),
    "trapezoid-at": of(np.trapezoid, A, draw(4, seed=2)),
    "gradient": of(np.gradient, A),
    "gradient-axis": of(lambda a: np.gradient(a, 0.3, axis=1), A),
    "gradient-uneven": of(lambda a: np.gradient(a, [0.0, 0.4, 1.0, 1.1], axis=1, edge_order=2), A),
    "gradient-short": of(np.gradient, draw(2)),
    "gradient-at": of(lambda f, x: np.gradient(f, x, edge_order=2), V, frozen(np.sort(W))),
    "gradient-step": of(lambda f, h: np.gradient(f, h, axis=1), A, frozen(np.array(0.3))),
    "unwrap-discont": of(lambda a: np.unwrap(5 * a, discont=4, axis=0), A),
    "unwrap-period": of(lambda a: np.unwrap(5 * a, period=2.0), A),
    "unwrap": of(np.unwrap, frozen(np.linspace(0, 20, 7) % (2 * np.pi))),
    **{
        f"convolve-{mode}": of(lambda a, b, m=mode: np.convolve(a, b, m), V, draw(3))
        for mode in ("full", "same", "valid")
    },
    "convolve-longer": of(lambda a, b: np.convolve(a, b, "same"), draw(2), V),
    **{
        f"correlate-{mode}": of(lambda a, b, m=mode: np.correlate(a, b, m), V, draw(3))
        for mode in ("full", "same", "valid")
    },
    "correlate-longer": of(lambda a, b: np.correlate(a, b, "full"), draw(3), V),
    "interp": of(
        lambda x, f: np.interp(x, [-2.5, -1.0, 0.3, 1.7], f), draw(7, low=-3, high=3), draw(4)
    ),
    "interp-ends": of(
        lambda x, p, f: np.interp(x, p, f, left=-1.0, right=2.0),
        draw(7, low=-3, high=3),
        frozen(np.array([-2.5, -1.0, 0.3, 1.7])),
        draw(4),
    ),
    "interp-period": of(
        lambda x, f: np.interp(x, [0.1, 1.5, 2.9, 5.0], f, period=2 * np.pi),
        draw(7, low=-9, high=9),
        draw(4),
    ),
    **{
        f"pad-{mode}": of(lambda a, m=mode: np.pad(a, ((1, 2), (0, 3)), mode=m), A)
        for mode in (
            "constant edge linear_ramp maximum mean median minimum reflect symmetric wrap".split()
        )
    },
    "pad-values": of(lambda a: np.pad(a, 2, constant_values=((1, 2), (3, 4))), A),
    "pad-ramp-ends": of(lambda a: np.pad(a, 2, "linear_ramp", end_values=(5, -4)), A),
    "pad-values-own": of(lambda a, c: np.pad(a, 1, constant_values=c), A, draw(2, 2)),
    "pad-ramp-ends-own": of(lambda a, c: np.pad(a, 1, "linear_ramp", end_values=c), A, draw(2, 2)),
    "pad-part": of(lambda a: np.pad(a, 1, "mean", stat_length=2), A),
    "pad-odd": of(lambda a: np.pad(a, (4, 3), "reflect", reflect_type="odd"), draw(3)),
    "pad-odd-symmetric": of(lambda a: np.pad(a, 2, "symmetric", reflect_type="odd"), A),
    "polyadd": of(np.polyadd, V, draw(3)),
    "polysub": of(np.polysub, draw(3), V),
    "polymul": of(np.polymul, V, draw(3)),
    "polydiv": of(np.polydiv, V, draw(3)),
    "polyder": of(lambda p: np.polyder(p, 2), V),
    "polyint": of(lambda p, k: np.polyint(p, 2, k), V, draw(2)),
    "poly": of(np.poly, V),
    "poly-matrix": of(np.poly, S),
    "roots": of(lambda p: np.sort(np.abs(np.roots(p))), draw(4)),
    "roots-real": of(lambda p: np.sort(np.roots(p)), frozen(np.array([1.0, -0.5, -2.0, 0.6]))),
    "roots-zeros": of(lambda p: np.abs(np.roots(np.concatenate([[0.0], p, [0.0, 0.0]]))), draw(2)),
    "polyfit": of(lambda y: np.polyfit([0.0, 0.7, 1.0, 2.0, 2.5], y, 2), V),
    "polyfit-weights": of(
        lambda x, y, w: np.polyfit(x, y, 1, w=w), frozen(np.sort(W)), V, draw(5, low=0.5)
    ),
    "polyfit-cov": of(lambda y: np.polyfit([0.0, 0.7, 1.0, 2.0, 2.5], y, 2, cov=True), V),
    "polyval": of(np.polyval, draw(4), A),
    "vander": of(np.vander, V),
    "vander-increasing": of(lambda x: np.vander(x, 3, increasing=True), V),
    "sinc": of(np.sinc, A),
    "linspace": of(lambda a, b: np.linspace(a, b, 5), V, W),
    "linspace-open": of(lambda a, b: np.linspace(a, b, 4, endpoint=False, axis=-1), V, W),
    "logspace": of(lambda a, b: np.logspace(a, b, 4), draw(2), draw(2, seed=1)),
    "geomspace": of(lambda a, b: np.geomspace(a, b, 4), draw(2, low=0.5), draw(2, low=3, high=5)),
    "i0": of(np.i0, A),
    # functions of the user's
    "apply_along_axis": of(lambda a: np.apply_along_axis(lambda x: x * np.sum(x), 0, a), A),
    "apply_along_axis-number": of(lambda a: np.apply_along_axis(np.sum, 1, a), A),
    "apply_along_axis-matrix": of(lambda a: np.apply_along_axis(np.diag, 0, a), A),
    "apply_over_axes": of(lambda a: np.apply_over_axes(np.sum, a, [0, 2]), C),
    # products
    "dot": of(np.dot, A, draw(4, 2)),
    "dot-vectors": of(np.dot, V, W),
    "dot-stacks": of(np.dot, C, draw(3, 4, 2)),
    "dot-number": of(np.dot, A, draw()),
    "vdot": of(np.vdot, A, B),
    "inner": of(np.inner, A, B),
    "outer": of(np.outer, V, draw(3)),
    "kron": of(np.kron, A, draw(2, 2)),
    "tensordot": of(lambda a, b: np.tensordot(a, b, axes=([2, 1], [1, 0])), C, A),
    "tensordot-number": of(lambda a, b: np.tensordot(a, b, 1), C, draw(4, 2)),
    "einsum": of(lambda a, b: np.einsum("ij,kj->ki", a, b), A, B),
    "einsum-trace": of(lambda a: np.einsum("ii", a), S),
    "einsum-ellipsis": of(lambda a, b: np.einsum("...ij,...kj->...ik", a, b), C, A),
    "cross": of(np.cross, draw(2, 3), draw(2, 3, seed=1)),
    "cov": of(np.cov, A),
    "cov-columns": of(lambda a, b: np.cov(a, b, rowvar=False), A, B),
    "cov-weights": of(lambda a: np.cov(a, aweights=[1.0, 2.0, 0.5, 1.5], fweights=[1, 2, 1, 1]), A),
    "cov-weights-own": of(lambda a, w: np.cov(a, aweights=w), A, draw(4, low=0.5)),
    "corrcoef": of(np.corrcoef, A),
    "matmul": of(np.matmul, C, draw(4, 2)),
    "vecdot": of(np.vecdot, A, B),
    # ufuncs and their methods
    **{
        name: of(getattr(np, name), P)
        for name in (
            "absolute arctan cbrt ceil conjugate cos cosh deg2rad degrees exp exp2 expm1 fabs "
            "floor log log10 log1p log2 negative positive rad2deg radians reciprocal rint sign sin "
            "sinh sqrt square tanh trunc arcsinh"
        ).split()
    },
    "tan": of(np.tan, draw(4, low=-0.9, high=0.95)),
    "arcsin": of(np.arcsin, draw(4, low=-0.8, high=0.75)),
    "arccos": of(np.arccos, draw(4, low=-0.8, high=0.75)),
    "arctanh": of(np.arctanh, draw(4, low=-0.8, high=0.75)),
    "arccosh": of(np.arccosh, draw(4, low=1.3, high=3.0)),
    **{
        name: of(getattr(np, name), A, B)
        for name in (
            "add arctan2 copysign fmax fmin hypot logaddexp logaddexp2 maximum minimum multiply "
            "subtract"
        ).split()
    },
    **{
        name: of(getattr(np, name), B, P)
        for name in "divide float_power fmod remainder".split()
        if name != "float_power"
    },
    "float_power": of(np.float_power, P, A),
    "power": of(np.power, P, A),
    "heaviside": of(np.heaviside, frozen(np.array([-1.0, 1.0, 2.0, -3.0, 0.5])), V),
    "frexp": of(lambda a: np.frexp(a)[0], A),
    "fmod-signs": of(np.fmod, A, draw(3, 4, low=-2.7, high=-0.6, seed=5)),
    "ldexp": of(lambda a: np.ldexp(a, 3), A),
    "modf": of(np.modf, A),
    "divmod": of(np.divmod, B, P),
    "add-dtype": of(lambda a, b: np.add(a, b, dtype=np.float64), A, B),
    "add.reduce": of(np.add.reduce, A),
    "multiply.reduce": of(np.multiply.reduce, A, axis=1),
    "maximum.reduce": of(np.maximum.reduce, A, axis=None),
    "logaddexp.reduce": of(np.logaddexp.reduce, A),
    "hypot.reduce": of(np.hypot.reduce, A, axis=(0, 1), keepdims=True),
    "subtract.reduce": of(np.subtract.reduce, A, axis=1),
    "divide.reduce-initial": of(np.divide.reduce, P, initial=2.0),
    "subtract.accumulate": of(np.subtract.accumulate, A, axis=1),
    "logaddexp.accumulate": of(np.logaddexp.accumulate, A, axis=1),
    "hypot.accumulate": of(np.hypot.accumulate, A),
    "add.accumulate": of(np.add.accumulate, A),
    "multiply.accumulate": of(np.multiply.accumulate, A, axis=1),
    "maximum.accumulate": of(np.maximum.accumulate, A, axis=1),
    "minimum.accumulate": of(np.minimum.accumulate, A),
    "subtract.outer": of(np.subtract.outer, V, A),
    "multiply.outer": of(np.multiply.outer, V, W),
    "add.reduceat": of(lambda a: np.add.reduceat(a, [0, 2, 1], axis=1), A),
    # linalg
    "linalg.det": of(np.linalg.det, S),
    "linalg.inv": of(np.linalg.inv, SPD),
    "linalg.solve": of(np.linalg.solve, SPD, draw(4, 2)),
    "linalg.norm": of(np.linalg.norm, A),
    **{
        f"linalg.norm-{order}": of(lambda a, o=order: np.linalg.norm(a, o), A)
        for order in (1, -1, 2, -2, np.inf, -np.inf, "fro", "nuc")
    },
    **{
        f"linalg.norm-lines-{order}": of(lambda a, o=order: np.linalg.norm(a, o, axis=1), A)
        for order in (1, 2, 3, np.inf, -np.inf)
    },
    "linalg.vector_norm": of(np.linalg.vector_norm, A, axis=0),
    "linalg.matrix_norm": of(np.linalg.matrix_norm, C),
    "linalg.slogdet": of(lambda a: np.linalg.slogdet(a)[1], S),
    "linalg.cholesky": of(lambda a: np.linalg.cholesky(a @ np.swapaxes(a, 0, 1)), SPD),
    "linalg.qr": of(np.linalg.qr, S),
    "linalg.svd-values": of(lambda a: np.linalg.svd(a, compute_uv=False), A),
    "linalg.svdvals": of(np.linalg.svdvals, A),
    "linalg.eigvalsh": of(lambda a: np.linalg.eigvalsh(a + np.swapaxes(a, 0, 1)), S),
    "linalg.eigvals": of(lambda a: np.sort(np.real(np.linalg.eigvals(a))), SPD),
    "linalg.eig": of(lambda a: np.square(np.real(np.linalg.eig(a)[1])), SPD),
    "linalg.eigh": of(
        lambda a: np.square(np.linalg.eigh(a + np.swapaxes(a, 0, 1)).eigenvectors), SPD
    ),
    "linalg.svd": of(lambda a: np.square(np.linalg.svd(a, full_matrices=False)[0]), A),
    "linalg.matrix_transpose": of(np.linalg.matrix_transpose, C),
    "linalg.matmul": of(np.linalg.matmul, C, draw(4, 2)),
    "linalg.vecdot": of(np.linalg.vecdot, A, B),
    "linalg.tensordot": of(lambda a, b: np.linalg.tensordot(a, b, axes=1), A, draw(4, 2)),
    "linalg.tensorsolve": of(
        lambda a, b: np.linalg.tensorsolve(np.reshape(a, (2, 2, 2, 2)), b), SPD, draw(2, 2)
    ),
    "linalg.pinv": of(np.linalg.pinv, A),
    "linalg.matrix_power": of(lambda a: np.linalg.matrix_power(a, 3), S),
    "linalg.multi_dot": of(lambda a, b: np.linalg.multi_dot([a, b]), A, draw(4, 2)),
    "linalg.cond": of(np.linalg.cond, A),
    "linalg.lstsq": of(lambda a, b: np.linalg.lstsq(a, b, rcond=None)[0], draw(5, 3), V),
    "linalg.trace": of(np.linalg.trace, C),
    "linalg.diagonal": of(np.linalg.diagonal, C),
    "linalg.outer": of(np.linalg.outer, V, W),
    "linalg.cross": of(np.linalg.cross, draw(2, 3), draw(2, 3, seed=1)),
    "linalg.tensorinv": of(lambda a: np.linalg.tensorinv(a.reshape(2, 2, 2, 2), 2), SPD),
    # fft, of which the parts are taken: a derivative needs a real number
    **{
        f"fft.{name}": of(
            lambda a, n=name: np.real(getattr(np.fft, n)(a)) + np.imag(getattr(np.fft, n)(a)), V
        )
        for name in "fft ifft rfft ihfft".split()
    },
    **{f"fft.{name}": of(getattr(np.fft, name), V) for name in "irfft hfft fftshift".split()},
    "fft.fftn": of(lambda a: np.real(np.fft.fftn(a, axes=(0, 2))), C),
    "fft.ifftn": of(lambda a: np.imag(np.fft.ifftn(a)), A),
    "fft.ifft2": of(lambda a: np.real(np.fft.ifft2(a)), A),
    "fft.rfft2": of(lambda a: np.real(np.fft.rfft2(a)), A),
    "fft.irfft2": of(np.fft.irfft2, A),
    "fft.ifftshift": of(lambda a: np.fft.ifftshift(a, axes=1), A),
    "fft.fft2": of(lambda a: np.real(np.fft.fft2(a)), A),
    "fft.rfftn": of(lambda a: np.imag(np.fft.rfftn(a)), A),
    "fft.irfftn": of(lambda a: np.fft.irfftn(a, s=(3, 5), axes=(0, 1)), A),
    "fft.fft-norm": of(lambda a: np.imag(np.fft.fft(a, 7, norm="ortho")), V),
    # complex parts
    "real": of(lambda a: np.real(a * (1 + 2j)), A),
    "imag": of(lambda a: np.imag(a * (1 + 2j)), A),
    "angle": of(lambda a: np.angle(a + 1j * np.square(a), deg=True), A),
}
