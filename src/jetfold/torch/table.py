"""The table of rules: operation → kind (→ tower). A new operation is one line.

Names are those of torch, torch.Tensor, torch.nn.functional and torch.special, which share rules;
`linalg.` and `fft.` say so, `functional.` where torch.nn.functional means something else by a name
than torch, `_VF.` what some functions call when they are given one list. Method, function and
operator forms all find the same line. In-place forms (`add_`) need no line, nor do operations that
PyTorch differentiates in forward mode and whose speed does not matter: they have the general rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..core import towers
from . import decompositions as d
from .lifts import (
    diagonal_past,
    expand_past,
    flatten_past,
    flip_past,
    is_tensor,
    pad_past,
    permute_past,
    reshape_past,
    squeeze_past,
    tile_past,
    transpose_past,
    unfold_past,
    view_as_complex_past,
)
from .rules import (
    Rule,
    affine,
    along,
    bilinear,
    body,
    by_dtype,
    chosen,
    constant,
    converted,
    copied,
    decomposed,
    det,
    divide,
    einsum,
    elementwise,
    extreme,
    filled,
    getitem,
    identity,
    inverse,
    joined,
    jointly,
    linear,
    mapped,
    multiply,
    plus,
    polygamma,
    power,
    refused,
    reverse,
    select,
    selection,
    slogdet,
    solve,
    stacked_matmul,
    total,
    value,
    where,
)


def words(text: str) -> list[str]:
    """The names in a text."""
    return text.split()


def _double(x: Any) -> Any:
    """As torch.float_power takes it."""
    if not is_tensor(x):
        return x
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


RULES: dict[str, Rule] = {
    # ---- arithmetic
    "add": plus(1),
    "__add__": plus(1),
    "__radd__": plus(1),
    "sub": plus(-1),
    "subtract": plus(-1),
    "__sub__": plus(-1),
    "rsub": reverse(torch.sub),
    "__rsub__": reverse(torch.sub),
    "mul": multiply,
    "multiply": multiply,
    "__mul__": multiply,
    "__rmul__": multiply,
    "div": divide,
    "divide": divide,
    "true_divide": divide,
    "__div__": divide,
    "__truediv__": divide,
    "__rdiv__": reverse(torch.div),
    "__rtruediv__": reverse(torch.div),
    "pow": power,
    "float_power": decomposed(lambda input, exponent: _double(input) ** _double(exponent)),
    "__pow__": power,
    "__rpow__": reverse(torch.pow),
    "neg": linear(lazy=True),
    "negative": linear(lazy=True),
    "__neg__": linear(lazy=True),
    "positive": identity,
    "__pos__": identity,
    "addcmul": decomposed(d.addcmul),
    "addcdiv": decomposed(d.addcdiv),
    "lerp": decomposed(d.lerp),
    "remainder": decomposed(d.remainder),
    "__mod__": decomposed(d.remainder),
    "__rmod__": reverse(d.remainder),
    "fmod": decomposed(d.fmod),
    "frac": decomposed(d.frac),
    "hypot": decomposed(d.hypot),
    "atan2": decomposed(d.atan2),
    "arctan2": decomposed(d.atan2),
    "xlogy": decomposed(d.xlogy),
    "copysign": decomposed(d.copysign),
    "ldexp": decomposed(d.ldexp),
    "complex": jointly("imag", "imag"),
    "polar": decomposed(d.polar),
    # ---- products and contractions
    "matmul": decomposed(d.matmul),
    "__matmul__": decomposed(d.matmul),
    "__rmatmul__": reverse(torch.matmul),
    "linalg.matmul": decomposed(d.matmul),
    "mm": decomposed(d.matmul, mat2="other"),
    "mv": decomposed(d.matmul, vec="other"),
    "bmm": stacked_matmul,
    "chain_matmul": decomposed(d.multi_dot),
    "linalg.multi_dot": decomposed(d.multi_dot),
    "dot": decomposed(d.dot, tensor="other"),
    "inner": decomposed(d.inner),
    "vdot": decomposed(d.vdot),
    "outer": decomposed(d.outer),
    "ger": decomposed(d.outer),
    "linalg.vecdot": decomposed(d.vecdot),
    "cross": decomposed(d.first_cross),
    "linalg.cross": decomposed(d.cross),
    "einsum": einsum,
    "tensordot": decomposed(d.tensordot),
    "addmm": decomposed(d.addmm),
    "addmv": decomposed(d.addmm, mat="mat1", vec="mat2"),
    "baddbmm": decomposed(d.addmm, batch1="mat1", batch2="mat2"),
    "addbmm": decomposed(d.addbmm),
    "addr": decomposed(d.addr),
    "linear": affine,
    "conv1d": affine,
    "conv2d": affine,
    "conv3d": affine,
    "conv_transpose1d": affine,
    "conv_transpose2d": affine,
    "conv_transpose3d": affine,
    "kron": bilinear,
    "bilinear": decomposed(d.bilinear),
    "matrix_power": decomposed(d.matrix_power),
    "linalg.matrix_power": decomposed(d.matrix_power),
    # ---- determinants and linear systems
    "det": det,
    "linalg.det": det,
    "slogdet": slogdet,
    "linalg.slogdet": slogdet,
    "logdet": decomposed(d.log_det),
    "inverse": inverse,
    "linalg.inv": inverse,
    "linalg.solve": solve,
    "linalg.solve_ex": decomposed(d.solve_ex),
    "linalg.inv_ex": decomposed(d.inv_ex),
    "cholesky_inverse": decomposed(d.cholesky_inverse, input="L"),
    # ---- elementary functions
    "exp": elementwise(towers.exp),
    "exp2": elementwise(towers.exp2),
    "expm1": elementwise(towers.expm1),
    "log": elementwise(towers.log),
    "log2": elementwise(towers.log2),
    "log10": elementwise(towers.log10),
    "log1p": elementwise(towers.log1p),
    "logit": elementwise(towers.logit, eps=None),
    "sqrt": elementwise(towers.sqrt),
    "rsqrt": elementwise(towers.rsqrt),
    "square": elementwise(towers.square),
    "reciprocal": elementwise(towers.reciprocal),
    "sin": elementwise(towers.sin),
    "cos": elementwise(towers.cos),
    "tan": elementwise(towers.tan),
    "asin": elementwise(towers.asin),
    "arcsin": elementwise(towers.asin),
    "acos": elementwise(towers.acos),
    "arccos": elementwise(towers.acos),
    "atan": elementwise(towers.atan),
    "arctan": elementwise(towers.atan),
    "sinh": elementwise(towers.sinh),
    "cosh": elementwise(towers.cosh),
    "tanh": elementwise(towers.tanh),
    "asinh": elementwise(towers.asinh),
    "arcsinh": elementwise(towers.asinh),
    "acosh": elementwise(towers.acosh),
    "arccosh": elementwise(towers.acosh),
    "atanh": elementwise(towers.atanh),
    "arctanh": elementwise(towers.atanh),
    "sinc": elementwise(towers.sinc),
    "deg2rad": linear(lazy=True),
    "rad2deg": linear(lazy=True),
    # ---- special functions
    "erf": elementwise(towers.erf),
    "erfc": elementwise(towers.erfc),
    "erfinv": elementwise(towers.erfinv),
    "ndtr": elementwise(towers.ndtr),
    "lgamma": elementwise(towers.lgamma),
    "gammaln": elementwise(towers.lgamma),
    "digamma": elementwise(towers.digamma),
    "psi": elementwise(towers.digamma),
    "polygamma": polygamma,
    "mvlgamma": decomposed(d.lgamma_sum),
    "multigammaln": decomposed(d.lgamma_sum),
    # ---- activations
    "relu": elementwise(towers.relu),
    "relu6": elementwise(towers.relu6),
    "leaky_relu": elementwise(towers.leaky_relu, negative_slope=0.01),
    "prelu": decomposed(d.prelu),
    "elu": elementwise(towers.elu, alpha=1.0),
    "celu": elementwise(towers.celu, alpha=1.0),
    "selu": elementwise(towers.selu),
    "sigmoid": elementwise(towers.sigmoid),
    "expit": elementwise(towers.sigmoid),
    "logsigmoid": elementwise(towers.logsigmoid),
    "softplus": elementwise(towers.softplus, beta=1.0, threshold=20.0),
    "softsign": elementwise(towers.softsign),
    "silu": elementwise(towers.silu),
    "mish": elementwise(towers.mish),
    "gelu": select(
        "approximate", none=elementwise(towers.gelu), tanh=elementwise(towers.gelu_tanh)
    ),
    "tanhshrink": elementwise(towers.tanhshrink),
    "hardtanh": elementwise(towers.hardtanh, min_val=-1.0, max_val=1.0),
    "hardsigmoid": elementwise(towers.hardsigmoid),
    "hardswish": elementwise(towers.hardswish),
    "hardshrink": elementwise(towers.hardshrink, lambd=0.5),
    "softshrink": elementwise(towers.softshrink, lambd=0.5),
    "threshold": elementwise(towers.threshold, threshold=0.0, value=0.0),
    "rrelu": decomposed(d.rrelu),
    "glu": decomposed(d.glu),
    "softmax": decomposed(d.softmax),
    "softmin": decomposed(d.softmin),
    "log_softmax": decomposed(d.log_softmax),
    "logsumexp": decomposed(d.logsumexp),
    "logaddexp": decomposed(d.logaddexp),
    "logaddexp2": decomposed(d.logaddexp2),
    # ---- kinks and choices
    "abs": by_dtype(elementwise(towers.abs), decomposed(d.absolute)),
    "absolute": by_dtype(elementwise(towers.abs), decomposed(d.absolute)),
    "__abs__": by_dtype(elementwise(towers.abs), decomposed(d.absolute)),
    "clamp": decomposed(d.clamp),
    "clip": decomposed(d.clamp),
    "clamp_min": decomposed(d.clamp_min),
    "clamp_max": decomposed(d.clamp_max),
    "maximum": decomposed(d.maximum),
    "minimum": decomposed(d.minimum),
    "fmax": decomposed(d.fmax),
    "fmin": decomposed(d.fmin),
    "max": extreme(torch.maximum),
    "min": extreme(torch.minimum),
    "amax": decomposed(d.amax),
    "amin": decomposed(d.amin),
    "aminmax": decomposed(d.aminmax),
    "sort": selection("dim", "descending"),
    "msort": decomposed(lambda input: torch.sort(input, 0)[0]),
    "topk": selection("k", "dim", "largest", "sorted"),
    "kthvalue": selection("k", "dim", "keepdim"),
    "median": chosen,
    "nanmedian": chosen,
    "mode": selection("dim", "keepdim"),
    "cummax": selection("dim"),
    "cummin": selection("dim"),
    "where": where,
    "masked_fill": decomposed(d.masked_fill),
    "nan_to_num": decomposed(d.nan_to_num),
    # ---- reductions
    "sum": total,
    "nansum": decomposed(d.nansum),
    "nanmean": decomposed(d.nanmean),
    "sum_to_size": decomposed(d.sum_to_size),
    "mean": total,
    "trace": mapped,
    "cumsum": along(dim=(1, 0)),
    "prod": decomposed(d.prod),
    "cumprod": decomposed(d.cumprod),
    "var": decomposed(d.var),
    "std": decomposed(d.std),
    "var_mean": decomposed(d.var_mean),
    "std_mean": decomposed(d.std_mean),
    "norm": decomposed(d.norm),
    "linalg.norm": decomposed(d.linalg_norm),
    "linalg.vector_norm": decomposed(d.vector_norm),
    "normalize": decomposed(d.normalize),
    "cosine_similarity": decomposed(d.cosine_similarity),
    "cdist": decomposed(d.cdist),
    "pdist": decomposed(d.pdist),
    "dist": decomposed(d.dist),
    "pairwise_distance": decomposed(d.pairwise_distance),
    # ---- normalisation, attention, losses
    "layer_norm": decomposed(d.layer_norm),
    "rms_norm": decomposed(d.rms_norm),
    "group_norm": decomposed(d.group_norm),
    "instance_norm": decomposed(d.native_instance_norm),
    "batch_norm": decomposed(d.native_batch_norm),
    "functional.instance_norm": decomposed(d.instance_norm),
    "functional.batch_norm": decomposed(d.batch_norm),
    "dropout": decomposed(d.dropout, train="training"),
    "dropout1d": decomposed(d.dropout_channels(1)),
    "dropout2d": decomposed(d.dropout_channels(2)),
    "dropout3d": decomposed(d.dropout_channels(3)),
    "feature_dropout": decomposed(d.feature_dropout, train="training"),
    "alpha_dropout": decomposed(d.alpha_dropout, train="training"),
    "feature_alpha_dropout": decomposed(d.feature_alpha_dropout, train="training"),
    "gumbel_softmax": body(F.gumbel_softmax),
    "scaled_dot_product_attention": decomposed(d.scaled_dot_product_attention),
    "multi_head_attention_forward": body(F.multi_head_attention_forward),
    "_weight_norm": decomposed(d.weight_norm),
    "functional.embedding": decomposed(d.embedding),
    "mse_loss": decomposed(d.mse_loss),
    "l1_loss": decomposed(d.l1_loss),
    # ---- shapes and indices
    "reshape": linear(reshape_past),
    "view": linear(reshape_past),
    "reshape_as": linear(lambda b, other: reshape_past(b, other.shape)),
    "view_as": linear(lambda b, other: reshape_past(b, other.shape)),
    "flatten": linear(flatten_past),
    "ravel": linear(flatten_past),
    "unflatten": decomposed(d.unflatten),
    "expand": linear(expand_past),
    "expand_as": linear(lambda b, other: expand_past(b, other.shape)),
    "broadcast_to": linear(expand_past),
    "repeat": linear(tile_past),
    "tile": linear(tile_past),
    "repeat_interleave": mapped,
    "transpose": along(lazy=True, dim0=(1, 0), dim1=(2, 0)),
    "swapaxes": along(lazy=True, axis0=(1, 0), axis1=(2, 0)),
    "swapdims": along(lazy=True, dim0=(1, 0), dim1=(2, 0)),
    "t": linear(transpose_past, lazy=True),
    "permute": linear(permute_past, lazy=True),
    "movedim": along(lazy=True, source=(1, 0), destination=(2, 0)),
    "moveaxis": along(lazy=True, source=(1, 0), destination=(2, 0)),
    "adjoint": linear(lazy=True),
    "unsqueeze": along(lazy=True, dim=(1, 0)),
    "squeeze": linear(squeeze_past),
    "flip": linear(flip_past),
    "fliplr": mapped,
    "flipud": mapped,
    "roll": mapped,
    "rot90": mapped,
    "diagonal": linear(diagonal_past),
    "diag": mapped,
    "diag_embed": mapped,
    "diagflat": decomposed(d.diagflat),
    "tril": linear(),
    "triu": linear(),
    "unfold": linear(unfold_past),
    "functional.unfold": mapped,
    "fold": mapped,
    "narrow": along(dim=(1, 0)),
    "select": along(dim=(1, 0)),
    "index_select": along(dim=(1, 0)),
    "split": along(dim=(2, 0)),
    "split_with_sizes": along(dim=(2, 0)),
    "tensor_split": along(dim=(2, 0)),
    "chunk": along(dim=(2, 0)),
    "unsafe_split": along(dim=(2, 0)),
    "unsafe_chunk": along(dim=(2, 0)),
    "hsplit": decomposed(d.split_along(1)),
    "vsplit": decomposed(d.split_along(0)),
    "dsplit": decomposed(d.split_along(2)),
    "unbind": along(dim=(1, 0)),
    "__getitem__": getitem,
    "__reversed__": decomposed(lambda input: input.flip(0)),
    "gather": mapped,
    "take_along_dim": decomposed(d.take_along_dim),
    "take": decomposed(d.take),
    "masked_select": decomposed(d.masked_select),
    "index_add": jointly("dim index source", "source"),
    "index_copy": jointly("dim index source", "source"),
    "index_fill": jointly("dim index value", "value"),
    "index_put": jointly("indices values accumulate", "values"),
    "put": decomposed(d.put),
    "scatter": jointly("dim index src", "src", "value"),
    "scatter_add": jointly("dim index src", "src"),
    "masked_scatter": decomposed(d.masked_scatter),
    "slice_scatter": jointly("src dim start end step", "src"),
    "select_scatter": jointly("src dim index", "src"),
    "diagonal_scatter": jointly("src offset dim1 dim2", "src"),
    "diff": decomposed(d.diff),
    "pad": linear(pad_past),
    "constant_pad_nd": linear(lambda b, pad, *_, **__: F.pad(b, pad)),
    "cat": joined(),
    "concat": joined(),
    "concatenate": joined(),
    "stack": joined(),
    "hstack": decomposed(d.hstack),
    "vstack": decomposed(d.vstack),
    "row_stack": decomposed(d.vstack),
    "dstack": decomposed(d.dstack),
    "column_stack": decomposed(d.column_stack),
    "block_diag": decomposed(d.block_diag),
    "cartesian_prod": decomposed(d.cartesian_prod),
    "atleast_1d": decomposed(d.atleast(1)),
    "_VF.atleast_1d": decomposed(d.atleast(1)),
    "atleast_2d": decomposed(d.atleast(2)),
    "_VF.atleast_2d": decomposed(d.atleast(2)),
    "atleast_3d": decomposed(d.atleast(3)),
    "_VF.atleast_3d": decomposed(d.atleast(3)),
    "broadcast_tensors": decomposed(d.broadcast_tensors),
    "meshgrid": decomposed(d.meshgrid),
    "_VF.meshgrid": decomposed(d.meshgrid),
    "real": converted,
    "imag": linear(lazy=True),
    "conj": linear(lazy=True),
    "conj_physical": linear(lazy=True),
    "resolve_conj": converted,
    "resolve_neg": converted,
    "view_as_real": linear(lazy=True),
    "view_as_complex": linear(view_as_complex_past),
    # ---- pooling and resampling (of maxima: the general rule)
    "avg_pool1d": mapped,
    "avg_pool2d": mapped,
    "avg_pool3d": mapped,
    "adaptive_avg_pool1d": mapped,
    "adaptive_avg_pool2d": mapped,
    "adaptive_avg_pool3d": mapped,
    "interpolate": mapped,
    "pixel_shuffle": mapped,
    "pixel_unshuffle": mapped,
    # ---- Fourier transforms
    "fft.fft": along(dim=(2, -1)),
    "fft.ifft": along(dim=(2, -1)),
    "fft.rfft": along(dim=(2, -1)),
    "fft.irfft": along(dim=(2, -1)),
    "fft.hfft": along(dim=(2, -1)),
    "fft.fft2": along(dim=(2, (-2, -1))),
    "fft.ifft2": along(dim=(2, (-2, -1))),
    "fft.rfft2": along(dim=(2, (-2, -1))),
    "fft.irfft2": along(dim=(2, (-2, -1))),
    "fft.fftn": mapped,
    "fft.ifftn": mapped,
    "fft.rfftn": mapped,
    "fft.irfftn": mapped,
    "fft.fftshift": mapped,
    "fft.ifftshift": mapped,
    # ---- copies, types and devices
    "clone": copied,
    **dict.fromkeys(
        words("contiguous to type type_as float double half bfloat16 cfloat cdouble cuda cpu"),
        converted,
    ),
    "requires_grad_": identity,
    "retain_grad": identity,
    # ---- the value alone
    **dict.fromkeys(
        words(
            "detach __eq__ __ne__ __lt__ __le__ __gt__ __ge__ eq ne lt le gt ge equal allclose "
            "isclose greater greater_equal less less_equal not_equal argmax argmin argsort isnan "
            "isinf isfinite isposinf isneginf isreal isin signbit bool int long short byte char "
            "__bool__ __nonzero__ __float__ __int__ __index__ __complex__ ndimension dim_order "
            "__len__ __contains__ item tolist any all count_nonzero nonzero searchsorted "
            "bucketize logical_and logical_or logical_not logical_xor size dim numel nelement "
            "element_size stride is_floating_point is_complex is_contiguous is_nonzero "
            "is_inference is_same_size is_conj is_neg is_signed is_pinned is_shared data_ptr "
            "storage_offset get_device histc bincount argwhere result_type __format__ "
            "bernoulli multinomial poisson"
        ),
        value,
    ),
    # ---- a constant that jets may be written into
    "full_like": filled,
    "new_full": filled,
    **dict.fromkeys(
        words(
            "zeros_like ones_like empty_like new_zeros new_ones new_empty new_tensor "
            "new_empty_strided rand_like randn_like randint_like sign floor ceil round trunc fix "
            "floor_divide __floordiv__ __rfloordiv__ heaviside"
        ),
        constant,
    ),
    "sgn": by_dtype(constant, decomposed(d.phase)),
    "angle": by_dtype(constant, decomposed(d.angle)),
    # ---- what cannot work
    "numpy": refused("use torch operations in its place"),
    "__array__": refused("use torch operations in the place of numpy's"),
    "grad": refused(
        "derivatives inside the function are operators too: jetfold.derivatives({...})(u)(x), or "
        "nest an operator in the function"
    ),
    "backward": refused("call it on the result of the operator, outside the function"),
    "__dlpack__": refused("use torch operations, and torch.stack for torch.tensor([x, y])"),
    "__dlpack_device__": refused("use torch operations; torch.as_tensor(x) is x itself"),
    "as_strided": refused("write it with indices, x[i], or with x.unfold"),
    "unique": refused("PyTorch has no derivative for it either; x.detach().unique() is the values"),
    "unique_consecutive": refused("PyTorch has no derivative for it; apply it to x.detach()"),
    "register_hook": refused("register it on the result of the operator"),
}

NAMESPACES: dict[str, tuple[Any, ...]] = {
    "": (torch, torch.Tensor, F, torch.special, torch._C._nn, torch.autograd, operator),
    "functional": (F,),
    "linalg": (torch.linalg,),
    "_VF": (torch._VF,),
    "fft": (torch.fft,),
}
"""Where the names are looked up; "functional" where torch.nn.functional means something else."""

NESTED_WRONGLY: dict[str, Callable[..., Any]] = {
    "layer_norm": d.layer_norm,
    "functional.batch_norm": d.batch_norm,
    "batch_norm": d.native_batch_norm,
    "functional.instance_norm": d.instance_norm,
    "instance_norm": d.native_instance_norm,
    "det": d.det_by_factors,
    "linalg.det": d.det_by_factors,
    "slogdet": d.slogdet_by_factors,
    "linalg.slogdet": d.slogdet_by_factors,
    "logdet": d.log_det_by_factors,
    "linalg.solve": d.solve_by_inverse,
    "_weight_norm": d.weight_norm,
}
"""Functions of which PyTorch 2.13 nests derivatives wrongly, without a word, and substitutes.

Their formulas use an intermediate result (the factors, the mean) that the next derivative takes for
a constant: found by comparing every function of PyTorch's own test database with differences of
derivatives one order lower.
"""

UNDIFFERENTIABLE: frozenset[str] = frozenset(
    words(
        "linalg_eig linalg_eigvals linalg_householder_product linalg_tensorsolve "
        "linalg_solve_ex native_layer_norm native_batch_norm triangular_solve scatter_reduce "
        "index_reduce linear_cross_entropy chalf normal special_airy_ai special_bessel_j0 "
        "special_bessel_j1 special_bessel_y0 special_bessel_y1 special_modified_bessel_i0 "
        "special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 "
        "special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 "
        "special_spherical_bessel_j0 special_chebyshev_polynomial_t "
        "special_chebyshev_polynomial_u special_chebyshev_polynomial_v "
        "special_chebyshev_polynomial_w special_shifted_chebyshev_polynomial_t "
        "special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v "
        "special_shifted_chebyshev_polynomial_w special_hermite_polynomial_h "
        "special_hermite_polynomial_he special_laguerre_polynomial_l "
        "special_legendre_polynomial_p"
    )
)
"""More of them, without a substitute; the special functions here PyTorch takes for constants."""

VIEWS = frozenset(
    words(
        "view view_as reshape reshape_as flatten ravel unflatten expand expand_as "
        "broadcast_to transpose swapaxes swapdims t permute movedim moveaxis adjoint "
        "unsqueeze squeeze diagonal narrow select split split_with_sizes tensor_split chunk "
        "unbind unfold __getitem__ real imag conj view_as_real view_as_complex"
    )
)
"""Operations whose result may share memory with their argument: in-place writes go both ways."""

READ_ONLY = frozenset(
    words("expand expand_as broadcast_to real imag conj view_as_real view_as_complex")
)
"""Those of them that are not written through: not each entry is one of the base."""


def _by_function() -> dict[Callable[..., Any], str]:
    found = {}
    for key in RULES:
        space, _, name = key.rpartition(".")
        for namespace in NAMESPACES[space]:
            function = getattr(namespace, name, None)
            if callable(function) and (space or function not in found):
                found[function] = key
    return found


NAMES: dict[Callable[..., Any], str] = _by_function()
"""Every PyTorch function that has a rule, with the rule's name."""
