"""What NumPy's functions without a derivative are: which are cut, which refused, and why."""

from __future__ import annotations

# Whose value is a step, a position, a number of things or a text. NumPy computes them on the host;
# a gradient ends there, and `tape.explain` says so.
CUT = frozenset(
    "allclose argpartition array2string array_equal array_equiv array_repr array_str can_cast "
    "common_type diag_indices_from einsum_path histogram_bin_edges in1d iscomplexobj isin "
    "isrealobj ix_ lexsort mask_indices may_share_memory min_scalar_type packbits "
    "ravel_multi_index result_type save savetxt savez savez_compressed shares_memory "
    "tril_indices_from triu_indices_from unpackbits unravel_index".split()
)

# Refused where a tape watches an argument, with the reason; where nobody does, NumPy computes them.
REFUSED = {
    "array": "it copies values into an array of NumPy's; take np.stack, or np.copy",
    "asarray": "a NumPy array keeps no gradient; leave the tensor as it is",
    "asanyarray": "a NumPy array keeps no gradient; leave the tensor as it is",
    "asarray_chkfinite": "a NumPy array keeps no gradient; see dg.debug_nans",
    "ascontiguousarray": "a NumPy array keeps no gradient; a tensor's layout is its backend's",
    "asfortranarray": "a NumPy array keeps no gradient; a tensor's layout is its backend's",
    "asmatrix": "a NumPy matrix keeps no gradient; take np.atleast_2d",
    "bmat": "a NumPy matrix keeps no gradient; take np.block",
    "datetime_as_string": "it is of dates",
    "busday_count": "it is of dates",
    "busday_offset": "it is of dates",
    "is_busday": "it is of dates",
    "frompyfunc": "it calls a function with Python objects; take dg.vmap",
    "full": "it copies a value into an array of NumPy's; take np.broadcast_to, or np.full_like",
    "histogram2d": "only the weights of np.histogram are differentiated",
    "histogramdd": "only the weights of np.histogram are differentiated",
    "kaiser": "it copies the shape parameter into an array of NumPy's; write it with np.i0",
    "require": "a NumPy array keeps no gradient; a tensor's layout is its backend's",
    "vectorize": "it calls a function with the elements of a NumPy array; take dg.vmap",
}

# They take no array whose values they compute with: they make arrays, read and write files, ask
# for dtypes or shapes, or set how NumPy works. What they did before, they do with tensors about.
OF_NO_ARRAYS = frozenset(
    "arange bartlett base_repr binary_repr blackman broadcast_shapes datetime_data diag_indices "
    "empty eye fftfreq format_float_positional format_float_scientific from_dlpack frombuffer "
    "fromfile fromfunction fromiter fromregex fromstring genfromtxt get_include get_printoptions "
    "getbufsize geterr geterrcall hamming hanning identity indices info isdtype isfortran isscalar "
    "issubdtype iterable load loadtxt mintypecode nested_iters ones printoptions promote_types "
    "rfftfreq set_printoptions setbufsize seterr seterrcall show_config show_runtime test tri "
    "tril_indices triu_indices typename zeros".split()
)

# NumPy's older names of functions above: they call the younger one.
ALIASES = {"row_stack": "vstack"}
